#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "parallel/comm.h"
#include "parallel/even_shares.h"

/// Collectives through which gradients pass: each backward is a collective too. Where gradients are recorded, what they
/// return asks for one on every rank, whatever this rank's own inputs need, so that all ranks make the same calls on
/// the way back. `purpose` is a literal and names the calls.
namespace unigrpo::nn {

using RankGroup = std::shared_ptr<parallel::Comm>;

using parallel::even_shares;
using parallel::share_begin;

/// in_counts[r] of the rows [N, ...] go to rank r, out_counts[r] rows come from it, in rank order.
at::Tensor exchange_rows(const at::Tensor& rows, const std::vector<int64_t>& out_counts,
                         const std::vector<int64_t>& in_counts, const RankGroup& group, const char* purpose);

/// What a rank's gradient of gathered rows is: its own part, to be added to the others' (it computes something of its
/// own from them), or the whole, which all have alike (they all compute the same).
enum class GatheredGradient { part, alike };
/// The rows of all ranks, in rank order; own: [counts[rank], ...].
at::Tensor gather_rows(const at::Tensor& own, const std::vector<int64_t>& counts, const RankGroup& group,
                       GatheredGradient gradient, const char* purpose);
/// Sums what all ranks have, in rank order (16-bit floats in float32), on all of them, and the gradients likewise.
at::Tensor sum_over(const at::Tensor& mine, const RankGroup& group, const char* purpose);
/// Sums what all ranks have for each row, in rank order (16-bit floats in float32), and gives each rank its
/// counts[rank] of them. Backward gathers.
at::Tensor sum_scatter_rows(const at::Tensor& all, const std::vector<int64_t>& counts, const RankGroup& group,
                            const char* purpose);

}  // namespace unigrpo::nn

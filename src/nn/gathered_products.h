#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "nn/collectives.h"

namespace unigrpo::nn {

/// How many rows each rank has, of either of two kinds, which stand in this order among its own.
struct RowCounts {
  std::vector<int64_t> und, gen;

  std::vector<int64_t> both() const;
};

/// Rows of both kinds.
struct RowPair {
  at::Tensor und, gen;
};

/// The rows of all ranks, each kind in rank order; own: [rows of this rank, ...]. Backward sums what ranks have of a
/// row, in rank order, and gives each rank its own. One call either way, so that the calls come in one order on all
/// ranks.
RowPair gather_both(const at::Tensor& own, const RowCounts& counts, const RankGroup& group, const char* purpose);
/// Sums what all ranks have for each row, and gives each rank its own rows; the way back gathers.
at::Tensor sum_scatter_both(const RowPair& all, const RowCounts& counts, const RankGroup& group, const char* purpose);

struct WeightPair {
  std::vector<at::Tensor> und, gen;
};
/// x W^T of gather_both's rows x for each weight W of their kind, [rows, out] each, where they stand. Of x this keeps
/// own rows alone, and gathers it again on the way back (Korthikanti et al., arXiv 2205.05198, section 4.2.2).
WeightPair gathered_products(const at::Tensor& own, const RowCounts& counts, const WeightPair& weights,
                             const RankGroup& group, const char* purpose);

}  // namespace unigrpo::nn

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "nn/collectives.h"

/// A vocabulary of which each rank of a group has an even run of ids (Megatron: Shoeybi et al., arXiv 1909.08053):
/// those rows of the embeddings, and those logits. Ids [N] are the same on all ranks, and of the whole vocabulary.
namespace unigrpo::nn {

/// table: [own ids, D], those from `first` on. Returns [N, D], alike on all ranks, the gradients of which are summed.
at::Tensor sliced_embedding(const at::Tensor& table, const at::Tensor& ids, int64_t first, const RankGroup& group);

/// Log-probs of ids as kernels::gather_log_prob has them, [N], alike on all ranks, as are their gradients. logits: [N,
/// own ids]. Two numbers a row travel.
at::Tensor sliced_log_probs(const at::Tensor& logits, const at::Tensor& ids, int64_t first, double temperature,
                            const RankGroup& group);

/// The logits of the whole vocabulary, [N, V], without gradients.
at::Tensor whole_logits(const at::Tensor& logits, int64_t vocabulary, const RankGroup& group);

}  // namespace unigrpo::nn

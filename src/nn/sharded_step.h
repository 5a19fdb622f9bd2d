#pragma once

#include "nn/recompute.h"

namespace unigrpo::nn {

/// step(a, b) of a unit of a model whose weights may be spread over ranks, which are whole while it runs forward and
/// while it runs backward, and not between (as in ZeRO-3, arXiv 1910.02054, and PyTorch's FSDP). After the backward
/// pass the gradients of its leaves may have gone to the ranks that own them. Without gradients it is step(a, b).
std::pair<at::Tensor, at::Tensor> sharded_step(const PairStep& step, const at::Tensor& a, const at::Tensor& b,
                                               const parallel::UnitOf& unit);

}  // namespace unigrpo::nn

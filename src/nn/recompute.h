#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <utility>

#include "parallel/unit_of.h"

namespace unigrpo::nn {

/// A step of two tensors, e.g. a layer over two streams of tokens.
using PairStep = std::function<std::pair<at::Tensor, at::Tensor>(const at::Tensor&, const at::Tensor&)>;

/// step(a, b), keeping nothing but a and b for the backward pass, which runs it again (activation recomputation: Chen
/// et al., arXiv 1604.06174). `step` must be a function of a, b and leaf tensors; the gradients of those leaves are
/// added to their .grad, so use backward(), not grad(). Without gradients it is step(a, b).
///
/// `unit`: what the step's leaves are of a model whose weights may be spread over ranks. They are whole while the step
/// runs; after its second run their gradients may have gone to the ranks that own them.
std::pair<at::Tensor, at::Tensor> recompute(const PairStep& step, const at::Tensor& a, const at::Tensor& b,
                                            const parallel::UnitOf& unit = {});

}  // namespace unigrpo::nn

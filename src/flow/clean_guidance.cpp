#include "flow/clean_guidance.h"

#include <ATen/ATen.h>

#include <stdexcept>

#include "tensor/shape.h"

namespace unigrpo::flow {
namespace {

at::Tensor spread(const at::Tensor& x) { return x.flatten(1).std(1, /*unbiased=*/true).view({-1, 1, 1}); }

}  // namespace

at::Tensor guide_clean(const CleanGuidance& config, const CleanEstimates& estimates) {
  const at::Tensor c = tensor::at_least_float32(estimates.conditional);
  at::Tensor y = c;
  const auto move = [&](double scale, const at::Tensor& from) {
    if (scale == 0) return;
    if (!from.defined()) throw std::invalid_argument("guide_clean: a scale needs an estimate that is undefined");
    y = y + (c - from) * scale;
  };
  move(config.text_scale - 1, estimates.negative);
  move(config.perturbed_scale, estimates.perturbed);
  move(config.isolated_scale - 1, estimates.isolated);
  if (config.rescale <= 0) return y;
  return y * (spread(c) / spread(y) * config.rescale + (1 - config.rescale));
}

at::Tensor clean_estimate(const at::Tensor& x, const at::Tensor& velocity, double sigma) {
  return tensor::at_least_float32(x) - tensor::at_least_float32(velocity) * sigma;
}

at::Tensor velocity_of(const at::Tensor& x, const at::Tensor& clean, double sigma) {
  return (tensor::at_least_float32(x) - clean) / sigma;
}

}  // namespace unigrpo::flow

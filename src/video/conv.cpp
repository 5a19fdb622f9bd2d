#include "video/conv.h"

#include <ATen/ATen.h>

#include <optional>
#include <utility>

namespace unigrpo::video {

at::Tensor Conv::operator()(const at::Tensor& x) const {
  const std::vector<int64_t> no_output_padding(stride.size(), 0);
  return at::convolution(x, weight, bias.defined() ? std::optional(bias) : std::nullopt, stride, padding, dilation,
                         transposed, no_output_padding, /*groups=*/1);
}

Conv take_conv(nn::Weights& weights, const std::string& name, ConvShape shape) {
  const size_t axes = shape.kernel.size();
  std::vector<int64_t> sizes = shape.transposed ? std::vector{shape.in, shape.out} : std::vector{shape.out, shape.in};
  sizes.insert(sizes.end(), shape.kernel.begin(), shape.kernel.end());
  Conv conv;
  conv.weight = weights.take(name + ".weight", sizes);
  if (shape.bias) conv.bias = weights.take(name + ".bias", {shape.out});
  const auto or_all = [&](std::vector<int64_t> given, int64_t value) {
    return given.empty() ? std::vector<int64_t>(axes, value) : std::move(given);
  };
  conv.stride = or_all(std::move(shape.stride), 1);
  conv.padding = or_all(std::move(shape.padding), 0);
  conv.dilation = or_all(std::move(shape.dilation), 1);
  conv.transposed = shape.transposed;
  return conv;
}

at::Tensor channel_rms_norm(const at::Tensor& x, double eps) {
  return x * (x.square().mean(1, /*keepdim=*/true) + eps).rsqrt();
}

at::Tensor silu_of(at::Tensor x) { return at::GradMode::is_enabled() ? at::silu(x) : at::silu_(x); }

}  // namespace unigrpo::video

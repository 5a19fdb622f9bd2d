#include "policy/ltx2/fresh_weight.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/hash.h"
#include "tensor/rng.h"

namespace unigrpo::policy::ltx2 {
namespace {

bool ends_with_any(const std::string& name, std::initializer_list<std::string_view> ends) {
  return std::ranges::any_of(ends, [&](std::string_view end) { return name.ends_with(end); });
}

}  // namespace

at::Tensor fresh_weight(const std::string& component, const std::string& name, const std::vector<int64_t>& shape,
                        uint64_t seed) {
  if (component.ends_with("vae") && name == "encoder.conv_out.conv.bias") {
    // Behind the means come log-variances: one of all channels, or one each.
    constexpr double kLogVariance = -6;
    at::Tensor bias = at::zeros(shape, at::kFloat);
    const int64_t count = component == "vae" ? 1 : shape[0] / 2;
    bias.narrow(0, shape[0] - count, count).fill_(kLogVariance);
    return bias;
  }
  const StreamKey key = {.seed = seed, .prompt = fnv1a64(component + "." + name), .purpose = Purpose::parameter_init};
  if (component.ends_with("vae") && name.ends_with("conv_in.conv.bias")) return tensor::normal(shape, key);
  if (ends_with_any(name, {".bias", "latents_mean", "proj_out.weight"})) return at::zeros(shape, at::kFloat);
  if (shape.size() == 1) return at::ones(shape, at::kFloat);
  if (name.ends_with("scale_shift_table")) {
    at::Tensor table = at::zeros(shape, at::kFloat);
    // (shift, scale, gate) by three; between the streams (scale, shift, scale, shift, gate); at the end (shift, scale).
    if (shape[0] == 5) table[4].fill_(1);
    for (int64_t gate = 2; shape[0] % 3 == 0 && gate < shape[0]; gate += 3) table[gate].fill_(1);
    return table;
  }
  double fan_in = 1;
  for (size_t i = 1; i < shape.size(); ++i) fan_in *= static_cast<double>(shape[i]);
  double std = 1 / std::sqrt(fan_in);
  if (ends_with_any(name, {"conv2.conv.weight", "to_out.0.weight", "net.2.weight", "out_proj.weight", "fc2.weight"})) {
    std /= 4;
  }
  if (name.ends_with(".linear.weight")) std /= 8;  // of t to modulations
  if (ends_with_any(name, {"embed_tokens.weight", "embed_positions.weight", "learnable_registers"})) std = 1;
  return tensor::normal(shape, key) * std;
}

}  // namespace unigrpo::policy::ltx2

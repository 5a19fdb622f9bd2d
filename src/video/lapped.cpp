#include "video/lapped.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "base/error.h"
#include "tensor/shape.h"

namespace unigrpo::video {
namespace {

constexpr double kGain = 8;         // a clip's sound then has a mean square of about 1
constexpr double kOutSlope = 0.01;  // of the leaky ReLU before the vocoder's last convolution

/// B, [bins, 2 hop] float32.
at::Tensor lapped_basis(int64_t hop, int64_t bins) {
  const double n = static_cast<double>(hop);
  const at::Tensor place = at::arange(2 * hop, at::kDouble) + 0.5, bin = at::arange(bins, at::kDouble) + 0.5;
  const at::Tensor window = std::sqrt(2 / n) * (place * (std::numbers::pi / (2 * n))).sin();
  return (window * (bin.unsqueeze(1) * (place + n / 2) * (std::numbers::pi / n)).cos()).to(at::kFloat);
}

}  // namespace

at::Tensor lapped(const at::Tensor& wave, int64_t frames, int64_t hop, int64_t bins) {
  std::vector<int64_t> shape = wave.sizes().vec();
  tensor::check_shape(wave.flatten(0, -3), {-1, 2, -1}, "wave [B, 2, samples]");
  const at::Tensor rows = wave.to(at::kFloat).reshape({-1, 2, wave.size(-1)});
  const at::Tensor left = rows.select(1, 0), right = rows.select(1, 1);
  const at::Tensor mixed = at::stack({(left + right) / 2, (left - right) / 2}, 1).flatten(0, 1).unsqueeze(1);
  // From half a hop before the first sample to the end of the last frame.
  const int64_t before = hop / 2, after = (frames + 1) * hop - before - wave.size(-1);
  const at::Tensor basis = (lapped_basis(hop, bins) * kGain).unsqueeze(1).to(mixed.device());
  const at::Tensor x = at::conv1d(at::constant_pad_nd(mixed, {before, after}), basis, std::nullopt, hop);
  shape.back() = frames;
  shape.push_back(bins);
  return x.transpose(1, 2).reshape(shape);
}

at::Tensor lapped_vocoder_weight(const GeneratorConfig& c, const std::string& config_file, const std::string& name,
                                 const std::vector<int64_t>& shape) {
  const int64_t bins = c.in_channels / 2;
  const bool can = c.out_channels == 2 && c.upsample_factors.size() == 1 &&
                   c.upsample_kernel_sizes[0] == 2 * c.upsample_factors[0] && c.act_fn == "leaky_relu" &&
                   c.negative_slope == 1 && c.final_act_fn != "tanh" && c.in_channels % 2 == 0 &&
                   c.hidden_channels >= std::max<int64_t>(c.in_channels, 8);
  if (!can) {
    throw BadInput(
        "{}: cannot be the inverse of the lapped front end; expected one entry of upsample_factors, twice that in "
        "upsample_kernel_sizes, act_fn leaky_relu with a slope of 1, no tanh, 2 out_channels, hidden_channels not "
        "below in_channels",
        config_file);
  }
  at::Tensor weight = at::zeros(shape, at::kFloat);
  if (name == "conv_in.weight") {  // passes its input on
    for (int64_t i = 0; i < c.in_channels; ++i) weight[i][i][shape[2] / 2] = 1;
  } else if (name == "upsamplers.0.weight") {  // middle, -middle, side, -side
    const at::Tensor basis = lapped_basis(c.upsample_factors[0], bins) / kGain;
    for (int64_t channel = 0; channel < 4; ++channel) {
      weight.narrow(0, channel / 2 * bins, bins).select(1, channel).copy_(channel % 2 == 0 ? basis : -basis);
    }
  } else if (name == "conv_out.weight") {
    // A leaky ReLU of slope s between: relu(x) - relu(-x) = (1 + s) x.
    const double gain = 1 / (1 + kOutSlope);
    constexpr double kSigns[2][4] = {{1, -1, 1, -1}, {1, -1, -1, 1}};  // left, right
    for (int64_t out = 0; out < 2; ++out) {
      for (int64_t in = 0; in < 4; ++in) weight[out][in][shape[2] / 2] = gain * kSigns[out][in];
    }
  }
  return weight;
}

}  // namespace unigrpo::video

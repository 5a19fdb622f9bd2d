#include "policy/ltx2/positions.h"

#include <ATen/ATen.h>

#include <numbers>

namespace unigrpo::policy::ltx2 {
namespace {

at::Tensor frequencies(const AngleConfig& config, int64_t count) {
  const at::Tensor exponent = at::linspace(0.0, 1.0, count, config.double_precision ? at::kDouble : at::kFloat);
  return (at::pow(config.theta, exponent) * std::numbers::pi / 2.0).to(at::kFloat);
}

/// fractions: [S, A] in [0, 1].
Angles angles_of_fractions(const at::Tensor& fractions, const AngleConfig& config) {
  const int64_t axes = fractions.size(1), pairs = config.dim / 2, count = config.dim / (2 * axes);
  const at::Tensor turned = (fractions.unsqueeze(-1) * 2 - 1) * frequencies(config, count);  // [S, A, n]
  const at::Tensor angles = turned.transpose(1, 2).flatten(1);                               // [S, n A]
  const int64_t still = pairs - axes * count;
  const auto padded = [&](const at::Tensor& values, double value) {
    return at::constant_pad_nd(values, {still, 0}, value).contiguous();
  };
  return {.cos = padded(angles.cos(), 1), .sin = padded(angles.sin(), 0), .heads = config.heads, .split = config.split};
}

}  // namespace

at::Tensor Angles::table(const at::Tensor& values) const {
  if (!split) return values.repeat_interleave(2, -1).unsqueeze(0);
  return values.view({values.size(0), heads, -1}).transpose(0, 1).unsqueeze(0);
}

at::Tensor video_coords(const ClipGrid& grid, const VideoScale& scale) {
  const auto axis = [](int64_t count) { return at::arange(count, at::kFloat); };
  const auto starts = at::meshgrid({axis(grid.frames), axis(grid.height), axis(grid.width)}, "ij");
  const int64_t factors[] = {scale.time, scale.height, scale.width};
  std::vector<at::Tensor> rows;
  for (size_t a = 0; a < 3; ++a) {
    const at::Tensor start = starts[a].flatten();
    at::Tensor row = at::stack({start, start + 1}, -1) * factors[a];  // [S, 2]
    if (a == 0) row = (row + scale.causal_offset - scale.time).clamp_min(0) / grid.fps;
    rows.push_back(row);
  }
  return at::stack(rows).unsqueeze(0);
}

at::Tensor audio_coords(int64_t frames, const AudioScale& scale) {
  const at::Tensor start = at::arange(frames, at::kFloat);
  const auto seconds = [&](const at::Tensor& latent) {
    return (latent * scale.time + scale.causal_offset - scale.time).clamp_min(0) * scale.hop / scale.rate;
  };
  return at::stack({seconds(start), seconds(start + 1)}, -1).view({1, 1, frames, 2});
}

Angles angles_of(const at::Tensor& coords, const std::vector<double>& limits, const AngleConfig& config) {
  const at::Tensor middle = ((coords.select(-1, 0) + coords.select(-1, 1)) / 2.0).squeeze(0);  // [A, S]
  std::vector<at::Tensor> fractions;
  for (size_t a = 0; a < limits.size(); ++a) fractions.push_back(middle[static_cast<int64_t>(a)] / limits[a]);
  return angles_of_fractions(at::stack(fractions, -1), config);
}

Angles angles_of_sequence(int64_t num, int64_t base, const AngleConfig& config) {
  return angles_of_fractions((at::arange(num, at::kFloat) / base).unsqueeze(1), config);
}

Rotation::Rotation(const Angles& angles, int64_t batch, at::Device device)
    : half_(angles.cos.size(1) / angles.heads), split_(angles.split) {
  const auto laid_out = [&](const at::Tensor& values) {
    const at::Tensor sent = values.to(device);
    if (!split_) return sent;
    return sent.view({1, -1, half_}).expand({batch, -1, -1}).reshape({-1, half_});
  };
  table_ = {.cos = laid_out(angles.cos), .sin = laid_out(angles.sin)};
}

at::Tensor Rotation::operator()(const at::Tensor& x) const {
  const at::Tensor wide = x.to(at::kFloat);
  if (split_) {
    return kernels::apply_rotary(wide.reshape({-1, 1, 2 * half_}), table_).view(x.sizes()).to(x.scalar_type());
  }
  const at::Tensor pairs = wide.unflatten(-1, {-1, 2});
  const at::Tensor a = pairs.select(-1, 0), b = pairs.select(-1, 1);
  return at::stack({a * table_.cos - b * table_.sin, b * table_.cos + a * table_.sin}, -1)
      .view(x.sizes())
      .to(x.scalar_type());
}

}  // namespace unigrpo::policy::ltx2

#include "video/latent_upsampler.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "io/class_config.h"
#include "tensor/shape.h"
#include "video/conv.h"

namespace unigrpo::video {
namespace {

constexpr int64_t kGroups = 32;

struct GroupNorm {
  at::Tensor weight, bias;
  GroupNorm(nn::Weights& w, const std::string& name, int64_t channels)
      : weight(w.take(name + ".weight", {channels})), bias(w.take(name + ".bias", {channels})) {}
  at::Tensor operator()(const at::Tensor& x) const { return at::group_norm(x, kGroups, weight, bias, 1e-5); }
};

Conv take_conv3(nn::Weights& w, const std::string& name, int64_t out, int64_t in, size_t axes) {
  return take_conv(
      w, name,
      {.out = out, .in = in, .kernel = std::vector<int64_t>(axes, 3), .padding = std::vector<int64_t>(axes, 1)});
}

struct UpsamplerResBlock {
  Conv conv1;
  GroupNorm norm1;
  Conv conv2;
  GroupNorm norm2;

  UpsamplerResBlock(nn::Weights& w, const std::string& name, int64_t channels, size_t axes)
      : conv1(take_conv3(w, name + ".conv1", channels, channels, axes)),
        norm1(w, name + ".norm1", channels),
        conv2(take_conv3(w, name + ".conv2", channels, channels, axes)),
        norm2(w, name + ".norm2", channels) {}
  at::Tensor operator()(const at::Tensor& x) const { return silu_of(norm2(conv2(silu_of(norm1(conv1(x))))) + x); }
};

at::Tensor frames_first(const at::Tensor& x) { return x.permute({0, 2, 1, 3, 4}).flatten(0, 1); }
at::Tensor frames_back(const at::Tensor& x, int64_t batch) {
  return x.unflatten(0, {batch, -1}).permute({0, 2, 1, 3, 4});
}

/// [N, C n n, H, W] -> [N, C, H n, W n].
at::Tensor shuffle(const at::Tensor& x, int64_t n) {
  return x.unflatten(1, {-1, n, n}).permute({0, 1, 4, 2, 5, 3}).flatten(4, 5).flatten(2, 3);
}

}  // namespace

LatentUpsamplerConfig read_latent_upsampler_config(const std::filesystem::path& path) {
  auto file = io::ClassConfig::open(path, {"LTX2LatentUpsamplerModel"});
  LatentUpsamplerConfig c;
  c.in_channels = file.integer("in_channels", 128, 1 << 16);
  c.mid_channels = file.integer("mid_channels", 1024, 1 << 16);
  c.num_blocks_per_stage = file.integer("num_blocks_per_stage", 4, 64);
  const int64_t dims = file.integer("dims", 3, 3);
  c.spatial = file.boolean("spatial_upsample", true);
  c.temporal = file.boolean("temporal_upsample", false);
  c.rational = file.boolean("use_rational_resampler", true);
  const double scale = file.positive("rational_spatial_scale", 2.0);
  file.finish();
  if (dims < 2) file.refuse("dims", "must be 2 or 3, is 1");
  c.per_frame = dims == 2;
  if (c.per_frame && c.temporal) file.refuse("dims", "is 2; temporal_upsample needs 3");
  if (!c.spatial && !c.temporal) file.refuse("spatial_upsample", "or temporal_upsample must be true");
  if (c.mid_channels % kGroups != 0) {
    file.refuse("mid_channels", fmt::format("must be a multiple of {} (group norm), is {}", kGroups, c.mid_channels));
  }
  constexpr std::pair<double, std::pair<int64_t, int64_t>> kScales[] = {
      {0.75, {3, 4}}, {1.5, {3, 2}}, {2.0, {2, 1}}, {4.0, {4, 1}}};
  c.scale = {0, 0};
  for (const auto& [value, parts] : kScales) {
    if (value == scale) c.scale = parts;
  }
  if (c.scale.first == 0) file.refuse("rational_spatial_scale", fmt::format("must be 0.75, 1.5, 2 or 4, is {}", scale));
  return c;
}

struct LatentUpsampler::Network {
  LatentUpsamplerConfig config;
  Conv initial_conv;
  GroupNorm initial_norm;
  std::vector<UpsamplerResBlock> before, after;
  Conv upsampler, final_conv;
  at::Tensor blur;  // [1, 1, 5, 5], of the rational one

  Network(const LatentUpsamplerConfig& c, nn::Weights& w)
      : config(c),
        initial_conv(take_conv3(w, "initial_conv", c.mid_channels, c.in_channels, axes(c))),
        initial_norm(w, "initial_norm", c.mid_channels),
        final_conv(take_conv3(w, "final_conv", c.in_channels, c.mid_channels, axes(c))) {
    for (int64_t i = 0; i < c.num_blocks_per_stage; ++i) {
      before.emplace_back(w, fmt::format("res_blocks.{}", i), c.mid_channels, axes(c));
      after.emplace_back(w, fmt::format("post_upsample_res_blocks.{}", i), c.mid_channels, axes(c));
    }
    const bool rational = c.rational && !c.temporal;
    const int64_t times = c.spatial && c.temporal ? 8 : c.temporal ? 2 : rational ? c.scale.first * c.scale.first : 4;
    upsampler = take_conv3(w, rational ? "upsampler.conv" : "upsampler.0", times * c.mid_channels, c.mid_channels,
                           c.temporal ? 3 : 2);
    if (rational) blur = w.take("upsampler.blur_down.kernel", {1, 1, 5, 5});
  }
  static size_t axes(const LatentUpsamplerConfig& c) { return c.per_frame ? 2 : 3; }

  at::Tensor by_frame(const at::Tensor& x) const {
    if (!blur.defined()) return shuffle(upsampler(x), 2);
    const at::Tensor fine = shuffle(upsampler(x), config.scale.first);
    if (config.scale.second == 1) return fine;
    const int64_t channels = fine.size(1);
    return at::conv2d(fine, blur.expand({channels, 1, -1, -1}), {}, config.scale.second, 2, 1, channels);
  }
  at::Tensor in_time(const at::Tensor& x) const {
    const at::Tensor y = upsampler(x);
    const at::Tensor fine =
        config.spatial
            ? y.unflatten(1, {-1, 2, 2, 2}).permute({0, 1, 5, 2, 6, 3, 7, 4}).flatten(6, 7).flatten(4, 5).flatten(2, 3)
            : y.unflatten(1, {-1, 2}).permute({0, 1, 3, 2, 4, 5}).flatten(2, 3);
    return fine.narrow(2, 1, fine.size(2) - 1);  // the first frame stands for itself
  }

  at::Tensor operator()(const at::Tensor& latents) const {
    const int64_t batch = latents.size(0);
    at::Tensor x = config.per_frame ? frames_first(latents) : latents;
    x = silu_of(initial_norm(initial_conv(x)));
    for (const UpsamplerResBlock& block : before) x = block(x);
    if (config.temporal) {
      x = in_time(x);
    } else {
      x = config.per_frame ? by_frame(x) : frames_back(by_frame(frames_first(x)), batch);
    }
    for (const UpsamplerResBlock& block : after) x = block(x);
    x = final_conv(x);
    return config.per_frame ? frames_back(x, batch) : x;
  }
};

LatentUpsampler::LatentUpsampler(const LatentUpsamplerConfig& config, nn::Weights& weights)
    : network_(std::make_unique<Network>(config, weights)) {}
LatentUpsampler::~LatentUpsampler() = default;
LatentUpsampler::LatentUpsampler(LatentUpsampler&&) noexcept = default;
LatentUpsampler& LatentUpsampler::operator=(LatentUpsampler&&) noexcept = default;

at::Tensor LatentUpsampler::operator()(const at::Tensor& latents) const {
  tensor::check_shape(latents, {-1, network_->config.in_channels, -1, -1, -1}, "latents [B, C, F, H, W]");
  return (*network_)(latents);
}

}  // namespace unigrpo::video

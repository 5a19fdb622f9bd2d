#include "video/video_vae.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "io/class_config.h"
#include "nn/layer_norm.h"
#include "tensor/shape.h"
#include "video/conv.h"

namespace unigrpo::video {
namespace {

constexpr double kPixelNormEps = 1e-8;

using Stride = std::vector<int64_t>;  // frames, rows, columns

int64_t volume(const Stride& s) { return s[0] * s[1] * s[2]; }

Stride stride_of(const std::string& type) {
  if (type == "spatial") return {1, 2, 2};
  if (type == "temporal") return {2, 1, 1};
  return {2, 2, 2};
}

/// [B, C, F s0, H s1, W s2] -> [B, C s0 s1 s2, F, H, W].
at::Tensor fold(const at::Tensor& x, const Stride& s) {
  const int64_t b = x.size(0), c = x.size(1), f = x.size(2) / s[0], h = x.size(3) / s[1], w = x.size(4) / s[2];
  return x.reshape({b, c, f, s[0], h, s[1], w, s[2]})
      .permute({0, 1, 3, 5, 7, 2, 4, 6})
      .reshape({b, c * volume(s), f, h, w});
}

/// The inverse, without the first s0 - 1 frames: the first one of a clip stands for itself.
at::Tensor unfold(const at::Tensor& x, const Stride& s) {
  const int64_t b = x.size(0), c = x.size(1) / volume(s), f = x.size(2), h = x.size(3), w = x.size(4);
  const at::Tensor all = x.reshape({b, c, s[0], s[1], s[2], f, h, w})
                             .permute({0, 1, 5, 2, 6, 3, 7, 4})
                             .reshape({b, c, f * s[0], h * s[1], w * s[2]});
  return all.narrow(2, s[0] - 1, all.size(2) - (s[0] - 1));
}

/// A convolution that repeats the first frame (and the last, where not causal) as often as its kernel needs.
struct FrameConv {
  Conv conv;
  std::string padding_mode;

  FrameConv(nn::Weights& w, const std::string& name, int64_t out, int64_t in, const std::string& mode)
      : conv(take_conv(w, name + ".conv",
                       {.out = out,
                        .in = in,
                        .kernel = {kKernel, kKernel, kKernel},
                        .padding = {0, mode == "zeros" ? kKernel / 2 : 0, mode == "zeros" ? kKernel / 2 : 0}})),
        padding_mode(mode) {}

  at::Tensor operator()(const at::Tensor& x, bool causal) const {
    const auto repeated = [&](int64_t frame, int64_t count) {
      return x.narrow(2, frame, 1).expand({-1, -1, count, -1, -1});
    };
    at::Tensor padded = causal ? at::cat({repeated(0, kKernel - 1), x}, 2)
                               : at::cat({repeated(0, kKernel / 2), x, repeated(x.size(2) - 1, kKernel / 2)}, 2);
    if (padding_mode != "zeros") {
      constexpr int64_t side = kKernel / 2;
      padded = at::pad(padded, {side, side, side, side, 0, 0}, padding_mode);
    }
    return conv(padded);
  }

  static constexpr int64_t kKernel = 3;
};

struct VideoResnetBlock {
  FrameConv conv1, conv2;
  std::optional<nn::LayerNorm> norm3;
  std::optional<Conv> shortcut;

  VideoResnetBlock(nn::Weights& w, const std::string& name, int64_t in, int64_t out, double eps,
                   const std::string& mode)
      : conv1(w, name + ".conv1", out, in, mode), conv2(w, name + ".conv2", out, out, mode) {
    if (in == out) return;
    norm3 = nn::take_layer_norm(w, name + ".norm3", in, eps);
    shortcut = take_conv(w, name + ".conv_shortcut", {.out = out, .in = in, .kernel = {1, 1, 1}});
  }

  at::Tensor operator()(const at::Tensor& x, bool causal) const {
    const at::Tensor h = conv1(silu_of(channel_rms_norm(x, kPixelNormEps)), causal);
    const at::Tensor y = conv2(silu_of(channel_rms_norm(h, kPixelNormEps)), causal);
    return y + (shortcut ? (*shortcut)((*norm3)(x.movedim(1, -1)).movedim(-1, 1)) : x);
  }
};

std::vector<VideoResnetBlock> take_resnets(nn::Weights& w, const std::string& name, int64_t count, int64_t channels,
                                           double eps, const std::string& mode) {
  std::vector<VideoResnetBlock> blocks;
  for (int64_t i = 0; i < count; ++i) {
    blocks.emplace_back(w, fmt::format("{}.resnets.{}", name, i), channels, channels, eps, mode);
  }
  return blocks;
}

/// Pixels go into channels, of a convolution beside the plain means of groups of channels.
struct Downsampler {
  Stride stride;
  int64_t out;
  FrameConv conv;

  Downsampler(nn::Weights& w, const std::string& name, int64_t in, int64_t out_, const Stride& s,
              const std::string& mode)
      : stride(s), out(out_), conv(w, name + ".conv", out_ / volume(s), in, mode) {}

  at::Tensor operator()(const at::Tensor& x_in, bool causal) const {
    const at::Tensor x = stride[0] == 1 ? x_in : at::cat({x_in.narrow(2, 0, stride[0] - 1), x_in}, 2);
    const at::Tensor folded = fold(x, stride);
    const at::Tensor means =
        folded.view({folded.size(0), out, -1, folded.size(2), folded.size(3), folded.size(4)}).mean(2);
    return fold(conv(x, causal), stride) + means;
  }
};

struct Upsampler {
  Stride stride;
  int64_t factor;
  bool residual;
  FrameConv conv;

  Upsampler(nn::Weights& w, const std::string& name, int64_t in, int64_t factor_, const Stride& s, bool residual_,
            const std::string& mode)
      : stride(s), factor(factor_), residual(residual_), conv(w, name + ".conv", in * volume(s) / factor_, in, mode) {}

  at::Tensor operator()(const at::Tensor& x, bool causal) const {
    const at::Tensor y = unfold(conv(x, causal), stride);
    return residual ? y + unfold(x, stride).repeat({1, volume(stride) / factor, 1, 1, 1}) : y;
  }
};

template <typename T>
std::vector<T> reversed(const std::vector<T>& list) {
  return {list.rbegin(), list.rend()};
}

/// One entry a block.
template <typename T>
void check_length(const io::ClassConfig& config, const char* key, const std::vector<T>& list, size_t count) {
  if (list.size() != count) config.refuse(key, fmt::format("must have {} entries, has {}", count, list.size()));
}

void check_channels(io::ClassConfig& file, const VideoVaeConfig& c) {
  int64_t in = c.latent_channels;
  for (size_t i = 0; i < c.block_out_channels.size(); ++i) {
    const int64_t out = c.block_out_channels[i];
    if (!c.spatio_temporal_scaling[i] && out != in) {
      file.refuse("block_out_channels", fmt::format("changes from {} to {} where nothing is scaled", in, out));
    }
    const int64_t cells = volume(stride_of(c.downsample_type[i]));
    if (c.spatio_temporal_scaling[i] && (out % cells != 0 || in * cells % out != 0)) {
      file.refuse("block_out_channels", fmt::format("{} cannot be made of {} channels and {} pixels", out, in, cells));
    }
    in = out;
  }
  const auto outs = reversed(c.decoder_block_out_channels), factors = reversed(c.upsample_factor);
  const auto scaling = reversed(c.decoder_spatio_temporal_scaling), residual = reversed(c.upsample_residual);
  int64_t channels = outs.front();
  for (size_t i = 0; i < outs.size(); ++i) {
    const int64_t cells = volume(stride_of(c.upsample_type[i])), factor = factors[i], before = channels / factor;
    channels = outs[i] / factor;
    const bool whole = outs[i] % factor == 0 && cells % factor == 0 && (!residual[i] || outs[i] % cells == 0);
    // Where channels change a block reads them as they come, and one that scales nothing cannot divide them.
    if (!whole || (factor != 1 && (before != channels || !scaling[i]))) {
      file.refuse("upsample_factor", fmt::format("{} does not fit {} channels and {} pixels", factor, outs[i], cells));
    }
  }
}

}  // namespace

VideoVaeConfig read_video_vae_config(const std::filesystem::path& path) {
  auto file = io::ClassConfig::open(path, {"AutoencoderKLLTX2Video"});
  VideoVaeConfig c;
  c.in_channels = file.integer("in_channels", 3, 1024);
  c.out_channels = file.integer("out_channels", 3, 1024);
  c.latent_channels = file.integer("latent_channels", 128, 1 << 16);
  c.block_out_channels = file.integers("block_out_channels", {256, 512, 1024, 2048});
  const size_t blocks = c.block_out_channels.size();
  check_length(
      file, "down_block_types",
      file.choices("down_block_types", std::vector<std::string>(4, "LTX2VideoDownBlock3D"), {"LTX2VideoDownBlock3D"}),
      blocks);
  c.layers_per_block = file.integers("layers_per_block", {4, 6, 6, 2, 2});
  check_length(file, "layers_per_block", c.layers_per_block, blocks + 1);
  c.spatio_temporal_scaling = file.booleans("spatio_temporal_scaling", std::vector<bool>(4, true), blocks);
  c.downsample_type = file.choices("downsample_type", {"spatial", "temporal", "spatiotemporal", "spatiotemporal"},
                                   {"spatial", "temporal", "spatiotemporal"});
  check_length(file, "downsample_type", c.downsample_type, blocks);

  c.decoder_block_out_channels = file.integers("decoder_block_out_channels", {256, 512, 1024});
  const size_t up_blocks = c.decoder_block_out_channels.size();
  c.decoder_layers_per_block = file.integers("decoder_layers_per_block", {5, 5, 5, 5});
  check_length(file, "decoder_layers_per_block", c.decoder_layers_per_block, up_blocks + 1);
  c.decoder_spatio_temporal_scaling =
      file.booleans("decoder_spatio_temporal_scaling", std::vector<bool>(3, true), up_blocks);
  c.upsample_type = file.choices("upsample_type", std::vector<std::string>(3, "spatiotemporal"),
                                 {"spatial", "temporal", "spatiotemporal"});
  check_length(file, "upsample_type", c.upsample_type, up_blocks);
  c.upsample_residual = file.booleans("upsample_residual", std::vector<bool>(3, true), up_blocks);
  c.upsample_factor = file.integers("upsample_factor", {2, 2, 2});
  check_length(file, "upsample_factor", c.upsample_factor, up_blocks);
  for (const bool noise :
       file.booleans("decoder_inject_noise", std::vector<bool>(up_blocks + 1, false), up_blocks + 1)) {
    if (noise) file.refuse("decoder_inject_noise", "is true; only false is supported");
  }
  file.only("timestep_conditioning", false);

  c.patch_size = file.integer("patch_size", 4, 64);
  file.only("patch_size_t", 1);
  c.norm_eps = file.positive("resnet_norm_eps", 1e-6);
  c.scaling_factor = file.positive("scaling_factor", 1.0);
  c.encoder_causal = file.boolean("encoder_causal", true);
  c.decoder_causal = file.boolean("decoder_causal", true);
  c.encoder_padding = file.choice("encoder_spatial_padding_mode", "zeros", {"zeros", "reflect", "replicate"});
  c.decoder_padding = file.choice("decoder_spatial_padding_mode", "reflect", {"zeros", "reflect", "replicate"});
  file.ignore({"spatial_compression_ratio", "temporal_compression_ratio"});  // follow from the blocks
  file.finish();
  check_channels(file, c);

  c.spatial_ratio = c.patch_size;
  c.temporal_ratio = 1;
  for (size_t i = 0; i < blocks; ++i) {
    if (!c.spatio_temporal_scaling[i]) continue;
    c.spatial_ratio *= stride_of(c.downsample_type[i])[1];
    c.temporal_ratio *= stride_of(c.downsample_type[i])[0];
  }
  return c;
}

struct VideoVae::Encoder {
  struct Level {
    std::vector<VideoResnetBlock> resnets;
    std::optional<Downsampler> down = {};
  };
  FrameConv conv_in;
  std::vector<Level> levels;
  std::vector<VideoResnetBlock> mid;
  FrameConv conv_out;

  Encoder(const VideoVaeConfig& c, nn::Weights& w)
      : conv_in(w, "encoder.conv_in", c.latent_channels, c.in_channels * c.patch_size * c.patch_size,
                c.encoder_padding),
        levels(take_levels(c, w)),
        mid(take_resnets(w, "encoder.mid_block", c.layers_per_block.back(), c.block_out_channels.back(), c.norm_eps,
                         c.encoder_padding)),
        conv_out(w, "encoder.conv_out", c.latent_channels + 1, c.block_out_channels.back(), c.encoder_padding) {}

  static std::vector<Level> take_levels(const VideoVaeConfig& c, nn::Weights& w) {
    std::vector<Level> levels;
    int64_t in = c.latent_channels;
    for (size_t i = 0; i < c.block_out_channels.size(); ++i) {
      const std::string name = fmt::format("encoder.down_blocks.{}", i);
      Level level{.resnets = take_resnets(w, name, c.layers_per_block[i], in, c.norm_eps, c.encoder_padding)};
      const int64_t out = c.block_out_channels[i];
      if (c.spatio_temporal_scaling[i]) {
        level.down.emplace(w, name + ".downsamplers.0", in, out, stride_of(c.downsample_type[i]), c.encoder_padding);
      }
      levels.push_back(std::move(level));
      in = out;
    }
    return levels;
  }

  at::Tensor operator()(const at::Tensor& patches, bool causal) const {
    at::Tensor x = conv_in(patches, causal);
    for (const Level& level : levels) {
      for (const VideoResnetBlock& block : level.resnets) x = block(x, causal);
      if (level.down) x = (*level.down)(x, causal);
    }
    for (const VideoResnetBlock& block : mid) x = block(x, causal);
    return conv_out(silu_of(channel_rms_norm(x, kPixelNormEps)), causal);
  }
};

struct VideoVae::Decoder {
  struct Level {
    std::optional<VideoResnetBlock> conv_in;
    std::optional<Upsampler> up;
    std::vector<VideoResnetBlock> resnets;
  };
  FrameConv conv_in;
  std::vector<VideoResnetBlock> mid;
  std::vector<Level> levels;
  FrameConv conv_out;

  Decoder(const VideoVaeConfig& c, nn::Weights& w)
      : conv_in(w, "decoder.conv_in", c.decoder_block_out_channels.back(), c.latent_channels, c.decoder_padding),
        mid(take_resnets(w, "decoder.mid_block", c.decoder_layers_per_block.back(), c.decoder_block_out_channels.back(),
                         c.norm_eps, c.decoder_padding)),
        levels(take_levels(c, w)),
        conv_out(w, "decoder.conv_out", c.out_channels * c.patch_size * c.patch_size,
                 c.decoder_block_out_channels.front() / c.upsample_factor.front(), c.decoder_padding) {}

  /// The lists are read from the back, but for upsample_type.
  static std::vector<Level> take_levels(const VideoVaeConfig& c, nn::Weights& w) {
    const auto outs = reversed(c.decoder_block_out_channels), factors = reversed(c.upsample_factor),
               layers = reversed(c.decoder_layers_per_block);
    const auto scaling = reversed(c.decoder_spatio_temporal_scaling), residual = reversed(c.upsample_residual);
    std::vector<Level> levels;
    int64_t channels = outs.front();
    for (size_t i = 0; i < outs.size(); ++i) {
      const std::string name = fmt::format("decoder.up_blocks.{}", i);
      const int64_t in = channels / factors[i];
      channels = outs[i] / factors[i];
      Level level;
      if (in != channels) level.conv_in.emplace(w, name + ".conv_in", in, channels, c.norm_eps, c.decoder_padding);
      if (scaling[i]) {
        level.up.emplace(w, name + ".upsamplers.0", channels * factors[i], factors[i], stride_of(c.upsample_type[i]),
                         residual[i], c.decoder_padding);
      }
      level.resnets = take_resnets(w, name, layers[i + 1], channels, c.norm_eps, c.decoder_padding);
      levels.push_back(std::move(level));
    }
    return levels;
  }

  at::Tensor operator()(const at::Tensor& latents, bool causal) const {
    at::Tensor x = conv_in(latents, causal);
    for (const VideoResnetBlock& block : mid) x = block(x, causal);
    for (const Level& level : levels) {
      if (level.conv_in) x = (*level.conv_in)(x, causal);
      if (level.up) x = (*level.up)(x, causal);
      for (const VideoResnetBlock& block : level.resnets) x = block(x, causal);
    }
    return conv_out(silu_of(channel_rms_norm(x, kPixelNormEps)), causal);
  }
};

VideoVae::VideoVae(const VideoVaeConfig& config, nn::Weights& weights)
    : config_(config),
      latents_mean_(weights.take("latents_mean", {config.latent_channels})),
      latents_std_(weights.take("latents_std", {config.latent_channels})),
      encoder_(std::make_unique<Encoder>(config, weights)),
      decoder_(std::make_unique<Decoder>(config, weights)) {}
VideoVae::~VideoVae() = default;
VideoVae::VideoVae(VideoVae&&) noexcept = default;
VideoVae& VideoVae::operator=(VideoVae&&) noexcept = default;

Posterior VideoVae::encode(const at::Tensor& videos) const {
  tensor::check_shape(videos, {-1, config_.in_channels, -1, -1, -1}, "videos [B, 3, frames, height, width]");
  const int64_t frames = videos.size(2), height = videos.size(3), width = videos.size(4);
  if (frames < 1 || (frames - 1) % config_.temporal_ratio != 0 || height % config_.spatial_ratio != 0 ||
      width % config_.spatial_ratio != 0) {
    throw std::invalid_argument(
        fmt::format("a video of {} frames of {} x {}: frames must be 1 + k * {}, sides multiples of {}", frames, height,
                    width, config_.temporal_ratio, config_.spatial_ratio));
  }
  // Patches hold (channel, column, row), in this order.
  const int64_t b = videos.size(0), c = videos.size(1), p = config_.patch_size;
  const at::Tensor patches = videos.reshape({b, c, frames, height / p, p, width / p, p})
                                 .permute({0, 1, 6, 4, 2, 3, 5})
                                 .reshape({b, c * p * p, frames, height / p, width / p});
  const at::Tensor out = (*encoder_)(patches, config_.encoder_causal);
  // The last channel is the log-variance of all.
  const at::Tensor logvar = out.narrow(1, config_.latent_channels, 1).clamp(-30.0, 20.0);
  return {.mean = out.narrow(1, 0, config_.latent_channels),
          .logvar = logvar.expand({-1, config_.latent_channels, -1, -1, -1})};
}

at::Tensor VideoVae::decode(const at::Tensor& latents) const {
  tensor::check_shape(latents, {-1, config_.latent_channels, -1, -1, -1}, "latents [B, C, F, H, W]");
  const at::Tensor x = (*decoder_)(latents, config_.decoder_causal);
  const int64_t b = x.size(0), p = config_.patch_size, f = x.size(2), h = x.size(3), w = x.size(4);
  return x.reshape({b, -1, p, p, f, h, w}).permute({0, 1, 4, 5, 3, 6, 2}).reshape({b, -1, f, h * p, w * p});
}

at::Tensor VideoVae::normalize(const at::Tensor& latents) const {
  const auto by_channel = [&](const at::Tensor& t) { return t.to(latents.scalar_type()).view({1, -1, 1, 1, 1}); };
  return (latents - by_channel(latents_mean_)) * config_.scaling_factor / by_channel(latents_std_);
}

at::Tensor VideoVae::denormalize(const at::Tensor& latents) const {
  const auto by_channel = [&](const at::Tensor& t) { return t.to(latents.scalar_type()).view({1, -1, 1, 1, 1}); };
  return latents * by_channel(latents_std_) / config_.scaling_factor + by_channel(latents_mean_);
}

}  // namespace unigrpo::video

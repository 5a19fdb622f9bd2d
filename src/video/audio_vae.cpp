#include "video/audio_vae.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "io/class_config.h"
#include "tensor/shape.h"
#include "video/conv.h"

namespace unigrpo::video {
namespace {

constexpr int64_t kNormGroups = 32;
constexpr double kNormEps = 1e-6;

struct Norm {
  at::Tensor weight, bias;  // undefined: RMS over the channels

  Norm(nn::Weights& w, const std::string& name, int64_t channels, bool group) {
    if (!group) return;
    weight = w.take(name + ".weight", {channels});
    bias = w.take(name + ".bias", {channels});
  }
  at::Tensor operator()(const at::Tensor& x) const {
    return weight.defined() ? at::group_norm(x, kNormGroups, weight, bias, kNormEps) : channel_rms_norm(x, kNormEps);
  }
};

/// Pads on one side of the causal axis, on both of the other: [left, right, top, bottom] for `extra` = kernel - 1.
std::vector<int64_t> causal_padding(const std::string& axis, int64_t extra) {
  const int64_t half = extra / 2, rest = extra - half;
  if (axis == "height") return {half, rest, extra, 0};
  if (axis == "none") return {half, rest, half, rest};
  return {extra, 0, half, rest};
}

struct CausalConv {
  Conv conv;
  std::vector<int64_t> padding;

  CausalConv(nn::Weights& w, const std::string& name, int64_t out, int64_t in, int64_t kernel, const std::string& axis)
      : conv(take_conv(w, name + ".conv", {.out = out, .in = in, .kernel = {kernel, kernel}})),
        padding(causal_padding(axis, kernel - 1)) {}
  at::Tensor operator()(const at::Tensor& x) const {
    return conv(conv.weight.size(-1) == 1 ? x : at::constant_pad_nd(x, padding, 0));
  }
};

struct ResnetBlock {
  Norm norm1;
  CausalConv conv1;
  Norm norm2;
  CausalConv conv2;
  std::optional<CausalConv> shortcut;

  ResnetBlock(nn::Weights& w, const std::string& name, int64_t in, int64_t out, const AudioVaeConfig& c)
      : norm1(w, name + ".norm1", in, c.group_norm),
        conv1(w, name + ".conv1", out, in, 3, c.causality_axis),
        norm2(w, name + ".norm2", out, c.group_norm),
        conv2(w, name + ".conv2", out, out, 3, c.causality_axis) {
    if (in != out) shortcut.emplace(w, name + ".nin_shortcut", out, in, 1, c.causality_axis);
  }
  at::Tensor operator()(const at::Tensor& x) const {
    const at::Tensor h = conv2(silu_of(norm2(conv1(silu_of(norm1(x))))));
    return (shortcut ? (*shortcut)(x) : x) + h;
  }
};

/// One-head self-attention over all places.
struct AttnBlock {
  Norm norm;
  Conv q, k, v, proj_out;

  AttnBlock(nn::Weights& w, const std::string& name, int64_t channels, const AudioVaeConfig& c)
      : norm(w, name + ".norm", channels, c.group_norm),
        q(projection(w, name + ".q", channels)),
        k(projection(w, name + ".k", channels)),
        v(projection(w, name + ".v", channels)),
        proj_out(projection(w, name + ".proj_out", channels)) {}
  static Conv projection(nn::Weights& w, const std::string& name, int64_t channels) {
    return take_conv(w, name, {.out = channels, .in = channels, .kernel = {1, 1}});
  }
  at::Tensor operator()(const at::Tensor& x) const {
    const at::Tensor h = norm(x);
    const auto rows = [](const at::Tensor& map) { return map.flatten(2).transpose(1, 2).unsqueeze(1); };
    const at::Tensor out = at::scaled_dot_product_attention(rows(q(h)), rows(k(h)), rows(v(h)));  // [B, 1, T M, C]
    return x + proj_out(out.squeeze(1).transpose(1, 2).reshape(x.sizes()));
  }
};

struct Middle {
  ResnetBlock block_1;
  std::optional<AttnBlock> attn_1;
  ResnetBlock block_2;

  Middle(nn::Weights& w, const std::string& name, int64_t channels, const AudioVaeConfig& c)
      : block_1(w, name + ".block_1", channels, channels, c), block_2(w, name + ".block_2", channels, channels, c) {
    if (c.mid_block_add_attention) attn_1.emplace(w, name + ".attn_1", channels, c);
  }
  at::Tensor operator()(const at::Tensor& x_in) const {
    at::Tensor x = block_1(x_in);
    if (attn_1) x = (*attn_1)(x);
    return block_2(x);
  }
};

struct Level {
  std::vector<ResnetBlock> blocks;
  std::vector<AttnBlock> attn;  // one a block, or none

  Level(nn::Weights& w, const std::string& name, int64_t in, int64_t out, int64_t count, bool attention,
        const AudioVaeConfig& c) {
    for (int64_t b = 0; b < count; ++b) {
      blocks.emplace_back(w, fmt::format("{}.block.{}", name, b), b == 0 ? in : out, out, c);
      if (attention) attn.emplace_back(w, fmt::format("{}.attn.{}", name, b), out, c);
    }
  }
  at::Tensor operator()(at::Tensor x) const {
    for (size_t b = 0; b < blocks.size(); ++b) {
      x = blocks[b](x);
      if (!attn.empty()) x = attn[b](x);
    }
    return x;
  }
};

bool attends(const AudioVaeConfig& c, size_t level) {
  return std::ranges::find(c.attn_resolutions, c.resolution >> level) != c.attn_resolutions.end();
}

std::vector<int64_t> downsample_padding(const std::string& axis) {
  if (axis == "none") return {0, 1, 0, 1};
  if (axis == "width") return {2, 0, 0, 1};
  if (axis == "height") return {0, 1, 2, 0};
  return {1, 0, 0, 1};
}

}  // namespace

AudioVaeConfig read_audio_vae_config(const std::filesystem::path& path) {
  auto file = io::ClassConfig::open(path, {"AutoencoderKLLTX2Audio"});
  AudioVaeConfig c;
  c.base_channels = file.integer("base_channels", 128, 1 << 16);
  c.output_channels = file.integer("output_channels", 2, 64);
  c.ch_mult = file.integers("ch_mult", {1, 2, 4});
  c.num_res_blocks = file.integer("num_res_blocks", 2, 64);
  c.attn_resolutions = file.integers("attn_resolutions", {});
  c.in_channels = file.integer("in_channels", 2, 64);
  c.resolution = file.integer("resolution", 256);
  c.latent_channels = file.integer("latent_channels", 8, 1 << 16);
  c.group_norm = file.choice("norm_type", "pixel", {"pixel", "group"}) == "group";
  c.causality_axis = file.choice("causality_axis", "height", {"none", "height", "width", "width-compatibility"});
  c.mid_block_add_attention = file.boolean("mid_block_add_attention", false);
  c.sample_rate = file.integer("sample_rate", 16000, 1'000'000);
  c.mel_hop_length = file.integer("mel_hop_length", 160, 1'000'000);
  c.mel_bins = file.integer("mel_bins", 64, 4096);
  c.lapped = file.choice("_front_end", "log_mel", {"log_mel", "lapped"}) == "lapped";
  file.only("double_z", true);
  file.ignore({"dropout", "is_causal"});  // of training; said by causality_axis
  file.finish();
  if (c.group_norm && c.causality_axis != "none") file.refuse("norm_type", "\"group\" needs causality_axis \"none\"");
  if (c.group_norm) {
    for (const int64_t factor : c.ch_mult) {
      if (c.base_channels * factor % kNormGroups != 0) {
        file.refuse("base_channels",
                    fmt::format("times {} must be a multiple of {} (group norm)", factor, kNormGroups));
      }
    }
  }
  if (c.ch_mult.size() != 3) file.refuse("ch_mult", "must have 3 entries: a latent is 4 frames of 4 bins");
  if (c.mel_bins % AudioVaeConfig::kRatio != 0)
    file.refuse("mel_bins", fmt::format("must be a multiple of 4, is {}", c.mel_bins));
  if (c.base_channels != c.latent_channels * c.latent_mel_bins()) {
    file.refuse("base_channels", fmt::format("must be latent_channels * mel_bins / 4 = {}, is {}",
                                             c.latent_channels * c.latent_mel_bins(), c.base_channels));
  }
  return c;
}

struct AudioVae::Encoder {
  CausalConv conv_in;
  std::vector<Level> levels;
  std::vector<Conv> downsamplers;  // behind each level but the last
  std::vector<int64_t> padding;
  Middle mid;
  Norm norm_out;
  CausalConv conv_out;

  Encoder(const AudioVaeConfig& c, nn::Weights& w)
      : conv_in(w, "encoder.conv_in", c.base_channels, c.in_channels, 3, c.causality_axis),
        padding(downsample_padding(c.causality_axis)),
        mid(w, "encoder.mid", c.base_channels * c.ch_mult.back(), c),
        norm_out(w, "encoder.norm_out", c.base_channels * c.ch_mult.back(), c.group_norm),
        conv_out(w, "encoder.conv_out", 2 * c.latent_channels, c.base_channels * c.ch_mult.back(), 3,
                 c.causality_axis) {
    int64_t in = c.base_channels;
    for (size_t i = 0; i < c.ch_mult.size(); ++i) {
      const std::string name = fmt::format("encoder.down.{}", i);
      const int64_t out = c.base_channels * c.ch_mult[i];
      levels.emplace_back(w, name, in, out, c.num_res_blocks, attends(c, i), c);
      if (i + 1 < c.ch_mult.size()) {
        downsamplers.push_back(
            take_conv(w, name + ".downsample.conv", {.out = out, .in = out, .kernel = {3, 3}, .stride = {2, 2}}));
      }
      in = out;
    }
  }

  at::Tensor operator()(const at::Tensor& log_mel) const {
    at::Tensor x = conv_in(log_mel);
    for (size_t i = 0; i < levels.size(); ++i) {
      x = levels[i](x);
      if (i < downsamplers.size()) x = downsamplers[i](at::constant_pad_nd(x, padding, 0));
    }
    return conv_out(silu_of(norm_out(mid(x))));
  }
};

struct AudioVae::Decoder {
  CausalConv conv_in;
  Middle mid;
  std::vector<Level> levels;           // in the order in which they run, the coarsest first
  std::vector<CausalConv> upsamplers;  // behind each level but the last
  std::string axis;
  Norm norm_out;
  CausalConv conv_out;

  Decoder(const AudioVaeConfig& c, nn::Weights& w)
      : conv_in(w, "decoder.conv_in", c.base_channels * c.ch_mult.back(), c.latent_channels, 3, c.causality_axis),
        mid(w, "decoder.mid", c.base_channels * c.ch_mult.back(), c),
        axis(c.causality_axis),
        norm_out(w, "decoder.norm_out", c.base_channels * c.ch_mult.front(), c.group_norm),
        conv_out(w, "decoder.conv_out", c.output_channels, c.base_channels * c.ch_mult.front(), 3, c.causality_axis) {
    int64_t in = c.base_channels * c.ch_mult.back();
    for (size_t i = c.ch_mult.size(); i-- > 0;) {
      const std::string name = fmt::format("decoder.up.{}", i);
      const int64_t out = c.base_channels * c.ch_mult[i];
      levels.emplace_back(w, name, in, out, c.num_res_blocks + 1, attends(c, i), c);
      if (i > 0) upsamplers.emplace_back(w, name + ".upsample.conv", out, out, 3, c.causality_axis);
      in = out;
    }
  }

  at::Tensor operator()(const at::Tensor& latents) const {
    at::Tensor x = mid(conv_in(latents));
    for (size_t i = 0; i < levels.size(); ++i) {
      x = levels[i](x);
      if (i == upsamplers.size()) break;
      x = upsamplers[i](at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}));
      // The first one of a causal axis stands for itself.
      if (axis == "height") x = x.narrow(2, 1, x.size(2) - 1);
      if (axis == "width") x = x.narrow(3, 1, x.size(3) - 1);
    }
    return conv_out(silu_of(norm_out(x)));
  }
};

AudioVae::AudioVae(const AudioVaeConfig& config, nn::Weights& weights)
    : config_(config),
      latents_mean_(weights.take("latents_mean", {config.base_channels})),
      latents_std_(weights.take("latents_std", {config.base_channels})),
      encoder_(std::make_unique<Encoder>(config, weights)),
      decoder_(std::make_unique<Decoder>(config, weights)) {}
AudioVae::~AudioVae() = default;
AudioVae::AudioVae(AudioVae&&) noexcept = default;
AudioVae& AudioVae::operator=(AudioVae&&) noexcept = default;

Posterior AudioVae::encode(const at::Tensor& log_mel) const {
  tensor::check_shape(log_mel, {-1, config_.in_channels, -1, config_.mel_bins}, "log_mel [B, channels, frames, bins]");
  const auto halves = (*encoder_)(log_mel).chunk(2, 1);
  return {.mean = halves[0], .logvar = halves[1].clamp(-30.0, 20.0)};
}

at::Tensor AudioVae::decode(const at::Tensor& latents) const {
  tensor::check_shape(latents, {-1, config_.latent_channels, -1, -1}, "latents [B, C, T, M]");
  const at::Tensor x = (*decoder_)(latents);
  const int64_t frames = std::max<int64_t>(latents.size(2) * AudioVaeConfig::kRatio - (AudioVaeConfig::kRatio - 1), 1);
  const at::Tensor cut =
      x.narrow(2, 0, std::min(frames, x.size(2))).narrow(3, 0, std::min(config_.mel_bins, x.size(3)));
  if (cut.size(2) == frames && cut.size(3) == config_.mel_bins) return cut;
  return at::constant_pad_nd(cut, {0, config_.mel_bins - cut.size(3), 0, frames - cut.size(2)}, 0);
}

at::Tensor AudioVae::normalize(const at::Tensor& tokens) const {
  return (tokens - latents_mean_.to(tokens.scalar_type())) / latents_std_.to(tokens.scalar_type());
}

at::Tensor AudioVae::denormalize(const at::Tensor& tokens) const {
  return tokens * latents_std_.to(tokens.scalar_type()) + latents_mean_.to(tokens.scalar_type());
}

}  // namespace unigrpo::video

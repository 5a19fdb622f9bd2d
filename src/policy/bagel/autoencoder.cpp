#include "policy/bagel/autoencoder.h"

#include <ATen/ATen.h>

#include <cmath>
#include <optional>
#include <string>

namespace unigrpo::policy {
namespace {

constexpr int64_t kNormGroups = 32;

struct Conv {
  at::Tensor weight, bias;
  int64_t stride = 1, padding = 1;

  Conv(nn::Weights& w, const std::string& name, int64_t out, int64_t in, int64_t kernel, int64_t stride_ = 1,
       int64_t padding_ = -1)
      : weight(w.take(name + ".weight", {out, in, kernel, kernel})),
        bias(w.take(name + ".bias", {out})),
        stride(stride_),
        padding(padding_ < 0 ? kernel / 2 : padding_) {}
  // at::conv2d takes another product for a single image, and for kernels of 1x1 in batches below 16 on one thread: an
  // image's bits would depend on those beside it (findings/conv2d_batch.sh).
  at::Tensor operator()(const at::Tensor& x) const {
    if (x.is_cpu() && x.scalar_type() == at::kFloat && at::globalContext().hasMKLDNN()) {
      return at::mkldnn_convolution(x.contiguous(), weight, bias, {padding, padding}, {stride, stride}, {1, 1}, 1);
    }
    return at::conv2d(x, weight, bias, stride, padding);
  }
};

struct GroupNorm {
  at::Tensor weight, bias;
  GroupNorm(nn::Weights& w, const std::string& name, int64_t channels)
      : weight(w.take(name + ".weight", {channels})), bias(w.take(name + ".bias", {channels})) {}
  at::Tensor operator()(const at::Tensor& x) const { return at::group_norm(x, kNormGroups, weight, bias, 1e-6); }
};

struct ResnetBlock {
  GroupNorm norm1;
  Conv conv1;
  GroupNorm norm2;
  Conv conv2;
  std::optional<Conv> shortcut;

  ResnetBlock(nn::Weights& w, const std::string& name, int64_t in, int64_t out)
      : norm1(w, name + ".norm1", in),
        conv1(w, name + ".conv1", out, in, 3),
        norm2(w, name + ".norm2", out),
        conv2(w, name + ".conv2", out, out, 3) {
    if (in != out) shortcut.emplace(w, name + ".nin_shortcut", out, in, 1);
  }
  at::Tensor operator()(const at::Tensor& x) const {
    const at::Tensor h = conv2(at::silu(norm2(conv1(at::silu(norm1(x))))));
    return (shortcut ? (*shortcut)(x) : x) + h;
  }
};

/// One-head self-attention over all pixels.
struct AttnBlock {
  GroupNorm norm;
  Conv q, k, v, proj_out;

  AttnBlock(nn::Weights& w, const std::string& name, int64_t channels)
      : norm(w, name + ".norm", channels),
        q(w, name + ".q", channels, channels, 1),
        k(w, name + ".k", channels, channels, 1),
        v(w, name + ".v", channels, channels, 1),
        proj_out(w, name + ".proj_out", channels, channels, 1) {}
  at::Tensor operator()(const at::Tensor& x) const {
    const at::Tensor h = norm(x);
    auto rows = [](const at::Tensor& map) { return map.flatten(2).transpose(1, 2).unsqueeze(1).contiguous(); };
    const at::Tensor out = at::scaled_dot_product_attention(rows(q(h)), rows(k(h)), rows(v(h)));  // [B, 1, hw, C]
    return x + proj_out(out.squeeze(1).transpose(1, 2).reshape(x.sizes()));
  }
};

struct Middle {
  ResnetBlock block_1;
  AttnBlock attn_1;
  ResnetBlock block_2;
  Middle(nn::Weights& w, const std::string& name, int64_t channels)
      : block_1(w, name + ".block_1", channels, channels),
        attn_1(w, name + ".attn_1", channels),
        block_2(w, name + ".block_2", channels, channels) {}
  at::Tensor operator()(const at::Tensor& x) const { return block_2(attn_1(block_1(x))); }
};

struct Level {
  std::vector<ResnetBlock> blocks;
  std::optional<Conv> resample;  // down: after the blocks, stride 2; up: after the blocks, on the doubled map
};

std::string indexed(const std::string& base, size_t index) { return base + "." + std::to_string(index); }

}  // namespace

struct Autoencoder::Encoder {
  Conv conv_in;
  std::vector<Level> levels;
  Middle mid;
  GroupNorm norm_out;
  Conv conv_out;

  Encoder(const AutoencoderConfig& c, nn::Weights& w)
      : conv_in(w, "encoder.conv_in", c.ch, c.in_channels, 3),
        levels(take_levels(c, w)),
        mid(w, "encoder.mid", c.ch * c.ch_mult.back()),
        norm_out(w, "encoder.norm_out", c.ch * c.ch_mult.back()),
        conv_out(w, "encoder.conv_out", 2 * c.z_channels, c.ch * c.ch_mult.back(), 3) {}

  static std::vector<Level> take_levels(const AutoencoderConfig& c, nn::Weights& w) {
    std::vector<Level> levels;
    int64_t in = c.ch;
    for (size_t i = 0; i < c.ch_mult.size(); ++i) {
      const std::string name = indexed("encoder.down", i);
      const int64_t out = c.ch * c.ch_mult[i];
      Level level;
      for (int64_t b = 0; b < c.num_res_blocks; ++b) {
        level.blocks.emplace_back(w, indexed(name + ".block", b), in, out);
        in = out;
      }
      if (i + 1 < c.ch_mult.size()) level.resample.emplace(w, name + ".downsample.conv", out, out, 3, 2, 0);
      levels.push_back(std::move(level));
    }
    return levels;
  }

  at::Tensor operator()(const at::Tensor& images) const {
    at::Tensor x = conv_in(images);
    for (const Level& level : levels) {
      for (const ResnetBlock& block : level.blocks) x = block(x);
      // The official downsampling pads on the right and at the bottom only.
      if (level.resample) x = (*level.resample)(at::constant_pad_nd(x, {0, 1, 0, 1}, 0));
    }
    return conv_out(at::silu(norm_out(mid(x))));
  }
};

struct Autoencoder::Decoder {
  Conv conv_in;
  Middle mid;
  std::vector<Level> levels;  // levels[i] is the official decoder.up.i: i = 0 is the largest map
  GroupNorm norm_out;
  Conv conv_out;

  Decoder(const AutoencoderConfig& c, nn::Weights& w)
      : conv_in(w, "decoder.conv_in", c.ch * c.ch_mult.back(), c.z_channels, 3),
        mid(w, "decoder.mid", c.ch * c.ch_mult.back()),
        levels(take_levels(c, w)),
        norm_out(w, "decoder.norm_out", c.ch * c.ch_mult.front()),
        conv_out(w, "decoder.conv_out", c.out_ch, c.ch * c.ch_mult.front(), 3) {}

  static std::vector<Level> take_levels(const AutoencoderConfig& c, nn::Weights& w) {
    std::vector<Level> levels(c.ch_mult.size());
    int64_t in = c.ch * c.ch_mult.back();
    for (size_t i = c.ch_mult.size(); i-- > 0;) {
      const std::string name = indexed("decoder.up", i);
      const int64_t out = c.ch * c.ch_mult[i];
      for (int64_t b = 0; b <= c.num_res_blocks; ++b) {
        levels[i].blocks.emplace_back(w, indexed(name + ".block", b), in, out);
        in = out;
      }
      if (i > 0) levels[i].resample.emplace(w, name + ".upsample.conv", out, out, 3);
    }
    return levels;
  }

  at::Tensor operator()(const at::Tensor& z) const {
    at::Tensor x = mid(conv_in(z));
    for (auto level = levels.rbegin(); level != levels.rend(); ++level) {
      for (const ResnetBlock& block : level->blocks) x = block(x);
      if (level->resample) {
        x = (*level->resample)(at::upsample_nearest2d(x, {2 * x.size(2), 2 * x.size(3)}));
      }
    }
    return conv_out(at::silu(norm_out(x)));
  }
};

Autoencoder::Autoencoder(const AutoencoderConfig& config, nn::Weights& weights)
    : config_(config),
      encoder_(std::make_unique<Encoder>(config, weights)),
      decoder_(std::make_unique<Decoder>(config, weights)) {}
Autoencoder::~Autoencoder() = default;
Autoencoder::Autoencoder(Autoencoder&&) noexcept = default;
Autoencoder& Autoencoder::operator=(Autoencoder&&) noexcept = default;

Autoencoder::Posterior Autoencoder::posterior(const at::Tensor& images) const {
  const auto halves = (*encoder_)(images).chunk(2, 1);
  return {halves[0], halves[1]};
}

at::Tensor Autoencoder::encode_mean(const at::Tensor& images) const {
  return (posterior(images).mean - config_.shift_factor) * config_.scale_factor;
}

at::Tensor Autoencoder::decode(const at::Tensor& latents) const {
  return decode_unscaled(latents / config_.scale_factor + config_.shift_factor);
}

at::Tensor Autoencoder::decode_unscaled(const at::Tensor& z) const { return (*decoder_)(z); }

}  // namespace unigrpo::policy

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "nn/weights.h"

namespace unigrpo::policy {

/// Sizes of the autoencoder (`vae_config` in config.json; absent keys mean the official ones).
struct AutoencoderConfig {
  int64_t in_channels = 3;
  int64_t ch = 128;
  int64_t out_ch = 3;
  std::vector<int64_t> ch_mult = {1, 2, 4, 4};
  int64_t num_res_blocks = 2;
  int64_t z_channels = 16;
  double scale_factor = 0.3611;
  double shift_factor = 0.1159;

  int64_t downsample() const { return int64_t{1} << (ch_mult.size() - 1); }
};

/// The FLUX-style convolutional autoencoder that BAGEL uses, in the official tensor names (`encoder.*`, `decoder.*`).
class Autoencoder {
 public:
  Autoencoder(const AutoencoderConfig& config, nn::Weights& weights);
  ~Autoencoder();
  Autoencoder(Autoencoder&&) noexcept;
  Autoencoder& operator=(Autoencoder&&) noexcept;

  struct Posterior {
    at::Tensor mean, logvar;  // [B, z, h, w], not yet scaled
  };
  /// images: [B, 3, height, width] in [-1, 1], sides divisible by downsample().
  Posterior posterior(const at::Tensor& images) const;
  /// Posterior mean in the model's latent units: (mean - shift) * scale, [B, z, height / 8, width / 8].
  at::Tensor encode_mean(const at::Tensor& images) const;
  /// latents: [B, z, h, w] in the model's latent units -> [B, 3, 8 h, 8 w], about [-1, 1].
  at::Tensor decode(const at::Tensor& latents) const;
  /// The decoder on unscaled latents, for training the autoencoder itself.
  at::Tensor decode_unscaled(const at::Tensor& z) const;

  const AutoencoderConfig& config() const { return config_; }

 private:
  struct Encoder;
  struct Decoder;
  AutoencoderConfig config_;
  std::unique_ptr<Encoder> encoder_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace unigrpo::policy

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "nn/weights.h"
#include "video/posterior.h"

namespace unigrpo::video {

/// config.json of class AutoencoderKLLTX2Video; lists of the decoder in the file's order, which it reads from the back.
struct VideoVaeConfig {
  int64_t in_channels = 3, out_channels = 3, latent_channels = 128;
  std::vector<int64_t> block_out_channels, decoder_block_out_channels;
  std::vector<int64_t> layers_per_block, decoder_layers_per_block;  // the encoder's last and the decoder's are mid's
  std::vector<bool> spatio_temporal_scaling, decoder_spatio_temporal_scaling, upsample_residual;
  std::vector<std::string> downsample_type, upsample_type;  // spatial, temporal, spatiotemporal
  std::vector<int64_t> upsample_factor;
  int64_t patch_size = 4;
  double norm_eps = 1e-6, scaling_factor = 1.0;
  bool encoder_causal = true, decoder_causal = true;
  std::string encoder_padding = "zeros", decoder_padding = "reflect";
  int64_t spatial_ratio = 32, temporal_ratio = 8;  // pixels and frames a latent
};

/// Throws BadInput naming file and key.
VideoVaeConfig read_video_vae_config(const std::filesystem::path& file);

/// The autoencoder of LTX-2's video (arXiv 2601.03233; diffusers 0.42.1, AutoencoderKLLTX2Video): 3-D convolutions
/// that repeat the first frame in front (and, where not causal, the last behind), so that 1 + 8 k frames become 1 + k.
class VideoVae {
 public:
  VideoVae(const VideoVaeConfig& config, nn::Weights& weights);
  ~VideoVae();
  VideoVae(VideoVae&&) noexcept;
  VideoVae& operator=(VideoVae&&) noexcept;

  const VideoVaeConfig& config() const { return config_; }

  /// videos: [B, 3, frames, height, width] in [-1, 1] -> [B, C, F, H, W] in the autoencoder's own units. Throws
  /// std::invalid_argument unless height and width are multiples of spatial_ratio and frames = 1 + k temporal_ratio.
  Posterior encode(const at::Tensor& videos) const;
  /// [B, C, F, H, W] in the autoencoder's own units -> [B, 3, frames, height, width], not clamped.
  at::Tensor decode(const at::Tensor& latents) const;

  /// (x - mean) * scaling_factor / std by channel: what the transformer sees, and back.
  at::Tensor normalize(const at::Tensor& latents) const;
  at::Tensor denormalize(const at::Tensor& latents) const;

 private:
  struct Encoder;
  struct Decoder;
  VideoVaeConfig config_;
  at::Tensor latents_mean_, latents_std_;  // [C]
  std::unique_ptr<Encoder> encoder_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace unigrpo::video

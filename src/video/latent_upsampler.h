#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <utility>

#include "nn/weights.h"

namespace unigrpo::video {

/// config.json of class LTX2LatentUpsamplerModel.
struct LatentUpsamplerConfig {
  int64_t in_channels = 128, mid_channels = 1024, num_blocks_per_stage = 4;
  bool spatial = true, temporal = false;  // doubled: both, or one
  bool per_frame = false;                 // dims = 2
  bool rational = true;                   // of spatial alone: by num / den, with a blur
  std::pair<int64_t, int64_t> scale = {2, 1};
};

/// Throws BadInput naming file and key.
LatentUpsamplerConfig read_latent_upsampler_config(const std::filesystem::path& file);

/// Doubles the sides (or frames) of video latents, in the autoencoder's own units, between LTX-2's two stages
/// (diffusers 0.42.1, LTX2LatentUpsamplerModel).
class LatentUpsampler {
 public:
  LatentUpsampler(const LatentUpsamplerConfig& config, nn::Weights& weights);
  ~LatentUpsampler();
  LatentUpsampler(LatentUpsampler&&) noexcept;
  LatentUpsampler& operator=(LatentUpsampler&&) noexcept;

  /// [B, C, F, H, W] -> the same with more of one or several of F, H, W.
  at::Tensor operator()(const at::Tensor& latents) const;

 private:
  struct Network;
  std::unique_ptr<Network> network_;
};

}  // namespace unigrpo::video

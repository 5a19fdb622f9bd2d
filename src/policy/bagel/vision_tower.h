#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "nn/encoder.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/weights.h"

namespace unigrpo::policy {

/// Sizes of the SigLIP tower (vit_config.json). `encoder.num_layers` is what the checkpoint holds: the file counts one
/// more.
struct VisionConfig {
  nn::EncoderConfig encoder{.layer_norm_eps = 1e-6, .activation = nn::Activation::gelu_tanh};
  int64_t num_channels = 3;
  int64_t patch_size = 14;
  int64_t image_size = 0;
};

/// SigLIP NaViT tower (arXiv 2303.15343, 2307.06304) and the connector into the language model's width.
class VisionTower {
 public:
  VisionTower(const VisionConfig& config, int64_t llm_hidden_size, int64_t max_patches_per_side, nn::Weights& weights);

  /// images: [B, 3, height, width], normalised, sides divisible by patch_size. Returns features [B, N, Dv] after the
  /// last layer norm, N = patches.
  at::Tensor features(const at::Tensor& images) const;
  /// Connector plus position embedding: [B, N, Dv] -> [B, N, D], for a patch grid `height` x `width`.
  at::Tensor connect(const at::Tensor& features, int64_t height, int64_t width) const;

  const VisionConfig& config() const { return config_; }

 private:
  VisionConfig config_;
  int64_t max_side_;
  nn::Linear patch_embedding_, connector_fc1_, connector_fc2_;
  at::Tensor position_embedding_, connector_positions_;
  nn::Encoder encoder_;
  nn::LayerNorm post_norm_;
};

}  // namespace unigrpo::policy

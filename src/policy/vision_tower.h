#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "nn/linear.h"
#include "nn/weights.h"

namespace unigrpo::policy {

/// Sizes of the SigLIP tower (vit_config.json). `num_layers` is what the checkpoint holds: the file counts one more.
struct VisionConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_channels = 3;
  int64_t patch_size = 14;
  int64_t image_size = 0;
  double layer_norm_eps = 1e-6;
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
  struct LayerNorm {
    at::Tensor weight, bias;
  };
  struct Layer {
    LayerNorm norm1, norm2;
    nn::Linear q, k, v, out, fc1, fc2;
  };
  at::Tensor normalize(const LayerNorm& norm, const at::Tensor& x) const;

  VisionConfig config_;
  int64_t max_side_;
  nn::Linear patch_embedding_, connector_fc1_, connector_fc2_;
  at::Tensor position_embedding_, connector_positions_;
  std::vector<Layer> layers_;
  LayerNorm post_;
};

}  // namespace unigrpo::policy

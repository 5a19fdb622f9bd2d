#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nn/encoder.h"
#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/weights.h"
#include "scorers/clip_config.h"

namespace unigrpo::scorers {

/// CLIP (Radford et al., arXiv 2103.00020) as transformers' CLIPModel, in float32 on the CPU.
class ClipModel {
 public:
  enum class Towers { both, image };

  /// Reads config.json and model.safetensors (or its shards) of any floating-point type. Tensors of a tower that is not
  /// asked for stay on disk; the `position_ids` that older files hold are passed over. Throws BadInput naming the file,
  /// the tensors that are missing and those that are left over.
  static ClipModel load(const std::filesystem::path& folder, Towers towers = Towers::both);

  /// input_ids: [B, T] int64, T <= max_positions, rows filled up behind their end token (with no higher id). Returns
  /// projected features [B, P], of any length. A row is read at its first eos_token_id, or, where the config says
  /// kLegacyEosTokenId, at its highest id: the first published configs name a wrong token, and transformers keeps to
  /// this rule for them.
  at::Tensor text_features(const at::Tensor& input_ids) const;
  /// pixel_values: [B, 3, image_size, image_size] as `pixel_values()` makes them. Returns [B, P], of any length.
  at::Tensor image_features(const at::Tensor& pixel_values) const;

  double logit_scale() const { return logit_scale_; }  // after exp()
  const ClipConfig& config() const { return config_; }

 private:
  ClipModel(const ClipConfig& config, nn::Weights& weights, Towers towers);

  struct TextTower {
    TextTower(const ClipConfig& config, nn::Weights& weights);
    at::Tensor tokens, positions;  // [V, D], [max_positions, D]
    nn::Encoder encoder;
    nn::LayerNorm final_norm;
    nn::Linear projection;
  };
  struct ImageTower {
    ImageTower(const ClipConfig& config, nn::Weights& weights);
    at::Tensor patch_weight;                // [D, patch^2 * 3], as nn::patchify orders a patch
    at::Tensor class_embedding, positions;  // [D], [1 + patches, D]
    nn::LayerNorm pre_norm, post_norm;
    nn::Encoder encoder;
    nn::Linear projection;
  };
  ClipConfig config_;
  ImageTower image_;
  std::vector<TextTower> text_;  // one, or none where it was not asked for
  double logit_scale_ = 1.0;
};

}  // namespace unigrpo::scorers

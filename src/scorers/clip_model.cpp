#include "scorers/clip_model.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "io/model_folder.h"
#include "kernels/linear.h"
#include "nn/patch.h"
#include "tensor/shape.h"

namespace unigrpo::scorers {
namespace {

namespace fs = std::filesystem;
using Towers = ClipModel::Towers;

nn::LayerNorm take_norm(nn::Weights& weights, const std::string& name, const nn::EncoderConfig& config) {
  return nn::take_layer_norm(weights, name, config.hidden_size, config.layer_norm_eps);
}

bool is_wanted(const std::string& name, Towers towers) {
  if (name.ends_with(".position_ids")) return false;
  return towers == Towers::both || !(name.starts_with("text_") || name == "logit_scale");
}

}  // namespace

ClipModel::TextTower::TextTower(const ClipConfig& config, nn::Weights& weights)
    : tokens(
          weights.take("text_model.embeddings.token_embedding.weight", {config.vocab_size, config.text.hidden_size})),
      positions(weights.take("text_model.embeddings.position_embedding.weight",
                             {config.max_positions, config.text.hidden_size})),
      encoder(config.text, "text_model.encoder", weights),
      final_norm(take_norm(weights, "text_model.final_layer_norm", config.text)),
      projection(nn::take_linear(weights, "text_projection", config.projection_dim, config.text.hidden_size,
                                 /*bias=*/false)) {}

ClipModel::ImageTower::ImageTower(const ClipConfig& config, nn::Weights& weights)
    : encoder(config.vision, "vision_model.encoder", weights) {
  const int64_t d = config.vision.hidden_size, patch = config.patch_size, side = config.image_size / patch;
  const std::string base = "vision_model.";
  patch_weight = weights.take(base + "embeddings.patch_embedding.weight", {d, 3, patch, patch})
                     .permute({0, 2, 3, 1})
                     .reshape({d, patch * patch * 3});
  class_embedding = weights.take(base + "embeddings.class_embedding", {d});
  positions = weights.take(base + "embeddings.position_embedding.weight", {side * side + 1, d});
  pre_norm = take_norm(weights, base + "pre_layrnorm", config.vision);  // the official spelling
  post_norm = take_norm(weights, base + "post_layernorm", config.vision);
  projection = nn::take_linear(weights, "visual_projection", config.projection_dim, d, /*bias=*/false);
}

ClipModel::ClipModel(const ClipConfig& config, nn::Weights& weights, Towers towers)
    : config_(config), image_(config, weights) {
  at::Tensor scale;
  if (towers == Towers::both) {
    text_.emplace_back(config, weights);
    scale = weights.take("logit_scale", {});
  }
  weights.finish();
  if (scale.defined()) logit_scale_ = scale.exp().item<double>();
}

ClipModel ClipModel::load(const fs::path& folder, Towers towers) {
  const ClipConfig config = read_clip_config(folder);
  const auto path = io::find_weights(folder);
  if (!path) {
    throw BadInput(
        "{}: no model.safetensors (or model.safetensors.index.json) in this model folder; pickled weights (.bin, .pt) "
        "are not read",
        folder.string());
  }
  nn::Weights weights =
      nn::open_weights(*path, at::kFloat, [&](const std::string& name) { return is_wanted(name, towers); });
  return {config, weights, towers};
}

at::Tensor ClipModel::text_features(const at::Tensor& input_ids) const {
  const at::NoGradGuard no_grad;
  tensor::check_shape(input_ids, {-1, -1}, "input_ids [B, T]");
  const TextTower& tower = text_.at(0);
  const at::Tensor embeds = at::embedding(tower.tokens, input_ids) + tower.positions.narrow(0, 0, input_ids.size(1));
  // What fills a row up stands behind its end, where a causal model does not look.
  const at::Tensor hidden = tower.final_norm(tower.encoder(embeds, /*causal=*/true));  // [B, T, D]
  const at::Tensor ends = config_.eos_token_id == kLegacyEosTokenId
                              ? input_ids.argmax(1)
                              : input_ids.eq(config_.eos_token_id).to(at::kInt).argmax(1);
  const at::Tensor rows = at::arange(input_ids.size(0), at::kLong);
  return tower.projection(hidden.index({rows, ends}));
}

at::Tensor ClipModel::image_features(const at::Tensor& pixel_values) const {
  const at::NoGradGuard no_grad;
  tensor::check_shape(pixel_values, {-1, 3, config_.image_size, config_.image_size},
                      "pixel_values [B, 3, height, width]");
  const at::Tensor patches =
      kernels::linear(nn::patchify(pixel_values, config_.patch_size), image_.patch_weight, at::Tensor());
  const at::Tensor first = image_.class_embedding.expand({patches.size(0), 1, -1});
  const at::Tensor embeds = at::cat({first, patches}, 1) + image_.positions;  // [B, 1 + patches, D]
  const at::Tensor hidden = image_.encoder(image_.pre_norm(embeds), /*causal=*/false);
  return image_.projection(image_.post_norm(hidden.select(1, 0)));
}

}  // namespace unigrpo::scorers

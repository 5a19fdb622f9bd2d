#include "scorers/clip_model.h"

#include <ATen/ATen.h>

#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "io/model_folder.h"
#include "nn/patch.h"
#include "tensor/convert.h"
#include "tensor/shape.h"

namespace unigrpo::scorers {
namespace {

namespace fs = std::filesystem;
using Towers = ClipModel::Towers;

LayerNorm take_norm(nn::Weights& weights, const std::string& name, const ClipTowerConfig& config) {
  return {weights.take(name + ".weight", {config.hidden_size}), weights.take(name + ".bias", {config.hidden_size}),
          config.layer_norm_eps};
}

fs::path find_weights(const fs::path& folder) {
  std::error_code ignored;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    if (fs::exists(folder / name, ignored)) return folder / name;
  }
  throw BadInput(
      "{}: no model.safetensors (or model.safetensors.index.json) in this model folder; pickled weights (.bin, .pt) "
      "are not read",
      folder.string());
}

bool is_wanted(const std::string& name, Towers towers) {
  if (name.ends_with(".position_ids")) return false;
  return towers == Towers::both || !(name.starts_with("text_") || name == "logit_scale");
}

nn::Weights open_weights(const fs::path& folder, Towers towers) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(find_weights(folder));
  std::map<std::string, at::Tensor> tensors;
  for (const io::TensorView* view : checkpoint.tensors()) {
    if (is_wanted(view->name, towers)) tensors.emplace(view->name, tensor::to_tensor(*view, at::kFloat));
  }
  return {checkpoint.path().string(), std::move(tensors)};
}

}  // namespace

at::Tensor LayerNorm::operator()(const at::Tensor& x) const {
  return at::layer_norm(x, weight.sizes(), weight, bias, eps);
}

ClipEncoder::ClipEncoder(const ClipTowerConfig& config, const std::string& name, nn::Weights& weights)
    : num_heads_(config.num_heads), quick_gelu_(config.quick_gelu) {
  const int64_t d = config.hidden_size, inner = config.intermediate_size;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string base = name + ".layers." + std::to_string(i) + ".";
    const auto take = [&](const char* part, int64_t out, int64_t in) {
      return nn::take_linear(weights, base + part, out, in, /*bias=*/true);
    };
    layers_.push_back({.norm1 = take_norm(weights, base + "layer_norm1", config),
                       .norm2 = take_norm(weights, base + "layer_norm2", config),
                       .q = take("self_attn.q_proj", d, d),
                       .k = take("self_attn.k_proj", d, d),
                       .v = take("self_attn.v_proj", d, d),
                       .out = take("self_attn.out_proj", d, d),
                       .fc1 = take("mlp.fc1", inner, d),
                       .fc2 = take("mlp.fc2", d, inner)});
  }
}

at::Tensor ClipEncoder::operator()(at::Tensor x, bool causal) const {
  const int64_t b = x.size(0), t = x.size(1);
  for (const Layer& layer : layers_) {
    const at::Tensor h = layer.norm1(x);
    const auto heads = [&](const nn::Linear& projection) {
      return projection(h).view({b, t, num_heads_, -1}).transpose(1, 2);  // [B, H, T, Dh]
    };
    const at::Tensor mixed =
        at::scaled_dot_product_attention(heads(layer.q), heads(layer.k), heads(layer.v), std::nullopt,
                                         /*dropout_p=*/0.0, causal);
    x = x + layer.out(mixed.transpose(1, 2).reshape({b, t, -1}));
    const at::Tensor wide = layer.fc1(layer.norm2(x));
    x = x + layer.fc2(quick_gelu_ ? wide * at::sigmoid(wide * 1.702) : at::gelu(wide));
  }
  return x;
}

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
  nn::Weights weights = open_weights(folder, towers);
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
      nn::linear(nn::patchify(pixel_values, config_.patch_size), image_.patch_weight, at::Tensor());
  const at::Tensor first = image_.class_embedding.expand({patches.size(0), 1, -1});
  const at::Tensor embeds = at::cat({first, patches}, 1) + image_.positions;  // [B, 1 + patches, D]
  const at::Tensor hidden = image_.encoder(image_.pre_norm(embeds), /*causal=*/false);
  return image_.projection(image_.post_norm(hidden.select(1, 0)));
}

}  // namespace unigrpo::scorers

#include "policy/vision_tower.h"

#include <ATen/ATen.h>

#include <string>

#include "nn/patch.h"

namespace unigrpo::policy {

VisionTower::VisionTower(const VisionConfig& config, int64_t llm_hidden_size, int64_t max_patches_per_side,
                         nn::Weights& weights)
    : config_(config), max_side_(max_patches_per_side) {
  const std::string base = "vit_model.vision_model.";
  const int64_t d = config.hidden_size;
  const int64_t side = config.image_size / config.patch_size;
  auto take_norm = [&](const std::string& name) {
    return LayerNorm{weights.take(name + ".weight", {d}), weights.take(name + ".bias", {d})};
  };
  patch_embedding_ = nn::take_linear(weights, base + "embeddings.patch_embedding", d,
                                     config.num_channels * config.patch_size * config.patch_size, true);
  position_embedding_ = weights.take(base + "embeddings.position_embedding.weight", {side * side, d});
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string name = base + "encoder.layers." + std::to_string(i) + ".";
    Layer layer;
    layer.norm1 = take_norm(name + "layer_norm1");
    layer.norm2 = take_norm(name + "layer_norm2");
    layer.q = nn::take_linear(weights, name + "self_attn.q_proj", d, d, true);
    layer.k = nn::take_linear(weights, name + "self_attn.k_proj", d, d, true);
    layer.v = nn::take_linear(weights, name + "self_attn.v_proj", d, d, true);
    layer.out = nn::take_linear(weights, name + "self_attn.out_proj", d, d, true);
    layer.fc1 = nn::take_linear(weights, name + "mlp.fc1", config.intermediate_size, d, true);
    layer.fc2 = nn::take_linear(weights, name + "mlp.fc2", d, config.intermediate_size, true);
    layers_.push_back(std::move(layer));
  }
  post_ = take_norm(base + "post_layernorm");
  connector_fc1_ = nn::take_linear(weights, "connector.fc1", llm_hidden_size, d, true);
  connector_fc2_ = nn::take_linear(weights, "connector.fc2", llm_hidden_size, llm_hidden_size, true);
  connector_positions_ = weights.take("vit_pos_embed.pos_embed", {max_side_ * max_side_, llm_hidden_size});
}

at::Tensor VisionTower::normalize(const LayerNorm& norm, const at::Tensor& x) const {
  return at::layer_norm(x, {config_.hidden_size}, norm.weight, norm.bias, config_.layer_norm_eps);
}

at::Tensor VisionTower::features(const at::Tensor& images) const {
  const int64_t height = images.size(2) / config_.patch_size, width = images.size(3) / config_.patch_size;
  const at::Tensor ids =
      nn::grid_position_ids(height, width, config_.image_size / config_.patch_size).to(images.device());
  const at::Tensor patches = nn::patchify(images, config_.patch_size).to(position_embedding_.scalar_type());
  at::Tensor x = patch_embedding_(patches) + position_embedding_.index_select(0, ids);  // [B, N, Dv]
  const int64_t b = x.size(0), n = x.size(1), heads = config_.num_heads;
  for (const Layer& layer : layers_) {
    const at::Tensor h = normalize(layer.norm1, x);
    auto split = [&](const nn::Linear& projection) {
      return projection(h).view({b, n, heads, -1}).transpose(1, 2);  // [B, H, N, Dh]
    };
    const at::Tensor mixed = at::scaled_dot_product_attention(split(layer.q), split(layer.k), split(layer.v));
    x = x + layer.out(mixed.transpose(1, 2).reshape({b, n, -1}));
    x = x + layer.fc2(at::gelu(layer.fc1(normalize(layer.norm2, x)), "tanh"));
  }
  return normalize(post_, x);
}

at::Tensor VisionTower::connect(const at::Tensor& features, int64_t height, int64_t width) const {
  const at::Tensor ids = nn::grid_position_ids(height, width, max_side_).to(features.device());
  return connector_fc2_(at::gelu(connector_fc1_(features), "tanh")) + connector_positions_.index_select(0, ids);
}

}  // namespace unigrpo::policy

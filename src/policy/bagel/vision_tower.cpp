#include "policy/bagel/vision_tower.h"

#include <ATen/ATen.h>

#include <string>

#include "nn/patch.h"

namespace unigrpo::policy {
namespace {

const std::string kTower = "vit_model.vision_model.";

}  // namespace

VisionTower::VisionTower(const VisionConfig& config, int64_t llm_hidden_size, int64_t max_patches_per_side,
                         nn::Weights& weights)
    : config_(config), max_side_(max_patches_per_side), encoder_(config.encoder, kTower + "encoder", weights) {
  const int64_t d = config.encoder.hidden_size;
  const int64_t side = config.image_size / config.patch_size;
  patch_embedding_ = nn::take_linear(weights, kTower + "embeddings.patch_embedding", d,
                                     config.num_channels * config.patch_size * config.patch_size, true);
  position_embedding_ = weights.take(kTower + "embeddings.position_embedding.weight", {side * side, d});
  post_norm_ = nn::take_layer_norm(weights, kTower + "post_layernorm", d, config.encoder.layer_norm_eps);
  connector_fc1_ = nn::take_linear(weights, "connector.fc1", llm_hidden_size, d, true);
  connector_fc2_ = nn::take_linear(weights, "connector.fc2", llm_hidden_size, llm_hidden_size, true);
  connector_positions_ = weights.take("vit_pos_embed.pos_embed", {max_side_ * max_side_, llm_hidden_size});
}

at::Tensor VisionTower::features(const at::Tensor& images) const {
  const int64_t height = images.size(2) / config_.patch_size, width = images.size(3) / config_.patch_size;
  const at::Tensor ids = nn::grid_position_ids(height, width, config_.image_size / config_.patch_size, images.device());
  const at::Tensor patches = nn::patchify(images, config_.patch_size).to(position_embedding_.scalar_type());
  const at::Tensor x = patch_embedding_(patches) + position_embedding_.index_select(0, ids);  // [B, N, Dv]
  return post_norm_(encoder_(x));
}

at::Tensor VisionTower::connect(const at::Tensor& features, int64_t height, int64_t width) const {
  const at::Tensor ids = nn::grid_position_ids(height, width, max_side_, features.device());
  return connector_fc2_(at::gelu(connector_fc1_(features), "tanh")) + connector_positions_.index_select(0, ids);
}

}  // namespace unigrpo::policy

#include "policy/initial_weight.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/hash.h"
#include "base/rng.h"
#include "nn/patch.h"
#include "tensor/rng.h"

namespace unigrpo::policy {

at::Tensor initial_weight(const MotConfig& llm, const std::string& name, const std::vector<int64_t>& shape,
                          uint64_t seed) {
  if (name.ends_with("pos_embed.pos_embed")) {
    return nn::sincos_position_table(static_cast<int64_t>(std::lround(std::sqrt(shape[0]))), shape[1]);
  }
  if (name.ends_with(".bias")) return at::zeros(shape, at::kFloat);
  if (shape.size() == 1) return at::ones(shape, at::kFloat);
  if (name.starts_with("llm2vae")) return at::zeros(shape, at::kFloat);
  double fan_in = 1;
  for (size_t i = 1; i < shape.size(); ++i) fan_in *= static_cast<double>(shape[i]);
  double std = 1.0 / std::sqrt(fan_in);
  if (name.find("o_proj") != std::string::npos || name.find("down_proj") != std::string::npos) {
    std /= std::sqrt(2.0 * static_cast<double>(llm.num_layers));
  }
  if (name.ends_with("embed_tokens.weight")) std = llm.tie_word_embeddings ? 0.02 : 0.5;
  if (name.ends_with("lm_head.weight") || name.ends_with("position_embedding.weight")) std = 0.02;
  return tensor::normal(shape, {.seed = seed, .prompt = fnv1a64(name), .purpose = Purpose::parameter_init}) * std;
}

}  // namespace unigrpo::policy

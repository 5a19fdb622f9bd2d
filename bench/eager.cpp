#include "bench/eager.h"

#include <ATen/ATen.h>

#include <cmath>

#include "nn/patch.h"

namespace unigrpo::bench {
namespace {

/// x: [B, H, T, Dh]; cos, sin: [T, Dh] in the dtype of x.
at::Tensor rotated(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const auto halves = x.chunk(2, -1);
  return x * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
}

}  // namespace

Eager::Eager(const policy::UnifiedPolicy& policy, const policy::MotConfig& config) : config_(config) {
  for (const NamedTensor& each : policy.parameters()) weights_[each.name] = each.tensor;
}

const at::Tensor& Eager::weight(const std::string& name) const { return weights_.at(name); }

at::Tensor Eager::linear(const at::Tensor& x, const std::string& name) const {
  const auto bias = weights_.find(name + ".bias");
  return at::linear(x, weight(name + ".weight"), bias == weights_.end() ? at::Tensor() : bias->second);
}

at::Tensor Eager::norm(const at::Tensor& x, const std::string& name) const {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scaled = wide * at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + config_.rms_norm_eps);
  return weight(name) * scaled.to(x.scalar_type());
}

template <typename F>
at::Tensor Eager::by_expert(const at::Tensor& x, int64_t num_und, const F& f) const {
  if (num_und == x.size(1)) return f(x, std::string());
  return at::cat({f(x.narrow(1, 0, num_und), std::string()),
                  f(x.narrow(1, num_und, x.size(1) - num_und), std::string("_moe_gen"))},
                 1);
}

Eager::Past Eager::past(int64_t rows, int64_t room) const {
  const at::Tensor& like = weight(config_.prefix + "model.embed_tokens.weight");
  Past past;
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    past.keys.push_back(at::zeros({rows, config_.num_kv_heads, room, config_.head_dim}, like.options()));
    past.values.push_back(at::zeros_like(past.keys.back()));
  }
  return past;
}

at::Tensor Eager::layers(at::Tensor x, const at::Tensor& position, int64_t num_und, bool causal, Past& past,
                         bool keep) const {
  const int64_t rows = x.size(0), length = x.size(1), dh = config_.head_dim;
  const at::Tensor exponent = at::arange(0, dh, 2, position.options().dtype(at::kFloat)) / static_cast<double>(dh);
  const at::Tensor half = position.to(at::kFloat).unsqueeze(1) / at::pow(config_.rope_theta, exponent);
  const at::Tensor angle = at::cat({half, half}, -1);  // [T, Dh]
  const at::Tensor cos = angle.cos().to(x.scalar_type()), sin = angle.sin().to(x.scalar_type());
  const auto heads = [&](const at::Tensor& t) { return t.view({rows, length, -1, dh}).transpose(1, 2); };
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const std::string base = config_.prefix + "model.layers." + std::to_string(i) + ".";
    const auto project = [&](const at::Tensor& in, const std::string& name) {
      return by_expert(in, num_und,
                       [&](const at::Tensor& part, const std::string& of) { return linear(part, base + name + of); });
    };
    const auto normed = [&](const at::Tensor& in, const std::string& name) {
      return by_expert(in, num_und, [&](const at::Tensor& part, const std::string& of) {
        return norm(part, base + name + of + ".weight");
      });
    };
    const auto head_normed = [&](const at::Tensor& in, const std::string& name) {
      return config_.qk_norm ? normed(in.view({rows, length, -1, dh}), name).flatten(2) : in;
    };
    const auto fed = [&](const at::Tensor& part, const std::string& of) {
      const std::string mlp = base + "mlp" + of + ".";
      return linear(at::silu(linear(part, mlp + "gate_proj")) * linear(part, mlp + "up_proj"), mlp + "down_proj");
    };
    const at::Tensor h = normed(x, "input_layernorm");
    const at::Tensor q = rotated(heads(head_normed(project(h, "self_attn.q_proj"), "self_attn.q_norm")), cos, sin);
    at::Tensor k = rotated(heads(head_normed(project(h, "self_attn.k_proj"), "self_attn.k_norm")), cos, sin);
    at::Tensor v = heads(project(h, "self_attn.v_proj"));
    const auto layer = static_cast<size_t>(i);
    if (keep && !at::GradMode::is_enabled()) {
      past.keys[layer].narrow(2, past.length, length).copy_(k);
      past.values[layer].narrow(2, past.length, length).copy_(v);
      k = past.keys[layer].narrow(2, 0, past.length + length);
      v = past.values[layer].narrow(2, 0, past.length + length);
    } else if (past.length > 0) {
      k = at::cat({past.keys[layer].narrow(2, 0, past.length), k}, 2);
      v = at::cat({past.values[layer].narrow(2, 0, past.length), v}, 2);
    }
    const at::Tensor mixed = at::scaled_dot_product_attention(q, k, v, {}, 0.0, causal && length > 1, std::nullopt,
                                                              /*enable_gqa=*/config_.num_heads != config_.num_kv_heads);
    x = x + project(mixed.transpose(1, 2).reshape({rows, length, -1}), "self_attn.o_proj");
    x = x + by_expert(normed(x, "post_attention_layernorm"), num_und, fed);
  }
  if (keep) past.length += length;
  return by_expert(x, num_und, [&](const at::Tensor& part, const std::string& of) {
    return norm(part, config_.prefix + "model.norm" + of + ".weight");
  });
}

at::Tensor Eager::read(const at::Tensor& ids, Past& past) const {
  const at::Tensor position = at::arange(past.length, past.length + ids.size(1), ids.options());
  return layers(at::embedding(weight(config_.prefix + "model.embed_tokens.weight"), ids), position, ids.size(1),
                /*causal=*/true, past, /*keep=*/true);
}

at::Tensor Eager::logits(const at::Tensor& hidden) const {
  return at::linear(
      hidden, weight(config_.prefix + (config_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight")));
}

at::Tensor Eager::velocity(const at::Tensor& latents, const at::Tensor& t, policy::LatentGrid grid,
                           const at::Tensor& boundary, const Past& past) const {
  const at::Tensor& places = weight("latent_pos_embed.pos_embed");
  const auto dtype = places.scalar_type();
  const auto side = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(places.size(0)))));
  const int64_t features = weight("time_embedder.mlp.0.weight").size(1), rows = latents.size(0);
  const at::Tensor time = linear(at::silu(linear(nn::timestep_features(t, features).to(dtype), "time_embedder.mlp.0")),
                                 "time_embedder.mlp.2");
  const at::Tensor ids = nn::grid_position_ids(grid.height, grid.width, side, latents.device());
  const at::Tensor drawn = linear(latents.to(dtype), "vae2llm") + time.unsqueeze(1) + places.index_select(0, ids);
  const at::Tensor ends = at::embedding(weight(config_.prefix + "model.embed_tokens.weight"), boundary);  // [2, D]
  const at::Tensor x = at::cat({ends.unsqueeze(0).expand({rows, -1, -1}), drawn}, 1);
  const at::Tensor position = at::full({x.size(1)}, past.length, boundary.options());
  Past seen = past;
  const at::Tensor hidden = layers(x, position, 2, /*causal=*/false, seen, /*keep=*/false);
  return linear(hidden.narrow(1, 2, drawn.size(1)), "llm2vae").to(at::kFloat);
}

std::vector<at::Tensor> Eager::weights() const {
  std::vector<at::Tensor> used;
  for (const auto& [name, tensor] : weights_) {
    if (!name.starts_with("vit_") && !name.starts_with("connector") && tensor.requires_grad()) used.push_back(tensor);
  }
  return used;
}

}  // namespace unigrpo::bench

#include "policy/mot_transformer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <tuple>
#include <utility>

#include "base/fault.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "nn/recompute.h"
#include "parallel/sharded_model.h"
#include "tensor/device.h"

namespace unigrpo::policy {

void PackedTokens::send(at::Device device, std::vector<at::Tensor*> more) {
  more.insert(more.end(), {&position_ids, &cache_slots});
  if (dropout) more.push_back(&dropout->rows);
  const std::vector<at::Tensor*> seen = layout->tensors();
  more.insert(more.end(), seen.begin(), seen.end());
  tensor::send_together(more, device);
}

struct MotTransformer::Streams {
  at::Tensor und, gen;  // [U, ...], [T - U, ...]

  static Streams split(const at::Tensor& x, int64_t num_und) {
    // One operation: the gradient of two narrows would be two tensors of zeros, two copies and a sum.
    const auto parts = x.split_with_sizes({num_und, x.size(0) - num_und}, 0);
    return {parts[0], parts[1]};
  }
  at::Tensor join() const {
    if (gen.size(0) == 0) return und;
    if (und.size(0) == 0) return gen;
    return at::cat({und, gen}, 0);
  }
  /// f(expert, rows) of each stream that has rows.
  template <typename E, typename F>
  Streams each(const E& und_expert, const E& gen_expert, const F& f) const {
    Streams y;
    if (und.size(0) > 0) y.und = f(und_expert, und);
    if (gen.size(0) > 0) y.gen = f(gen_expert, gen);
    if (!y.und.defined()) y.und = y.gen.narrow(0, 0, 0);
    if (!y.gen.defined()) y.gen = y.und.narrow(0, 0, 0);
    return y;
  }
};

MotTransformer::Expert MotTransformer::take_expert(const MotConfig& config, nn::Weights& weights, int64_t layer,
                                                   const std::string& suffix, const bool* lora_enabled) {
  const std::string base = config.prefix + "model.layers." + std::to_string(layer) + ".";
  const int64_t d = config.hidden_size, dh = config.head_dim, kv = config.num_kv_heads * dh;
  auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
    nn::Linear result = nn::take_linear(weights, base + name, out, in, bias);
    result.lora_enabled = lora_enabled;
    return result;
  };
  Expert e;
  e.input_norm = weights.take(base + "input_layernorm" + suffix + ".weight", {d});
  e.post_attention_norm = weights.take(base + "post_attention_layernorm" + suffix + ".weight", {d});
  if (config.qk_norm) {
    e.q_norm = weights.take(base + "self_attn.q_norm" + suffix + ".weight", {dh});
    e.k_norm = weights.take(base + "self_attn.k_norm" + suffix + ".weight", {dh});
  }
  e.q = linear("self_attn.q_proj" + suffix, config.num_heads * dh, d, true);
  e.k = linear("self_attn.k_proj" + suffix, kv, d, true);
  e.v = linear("self_attn.v_proj" + suffix, kv, d, true);
  e.o = linear("self_attn.o_proj" + suffix, d, config.num_heads * dh, false);
  e.gate = linear("mlp" + suffix + ".gate_proj", config.intermediate_size, d, false);
  e.up = linear("mlp" + suffix + ".up_proj", config.intermediate_size, d, false);
  e.down = linear("mlp" + suffix + ".down_proj", d, config.intermediate_size, false);
  return e;
}

MotTransformer::MotTransformer(const MotConfig& config, nn::Weights& weights, const bool* lora_enabled)
    : config_(config) {
  const std::string& base = config.prefix;
  embed_tokens_ = weights.take(base + "model.embed_tokens.weight", {config.vocab_size, config.hidden_size});
  lm_head_ = config.tie_word_embeddings
                 ? embed_tokens_
                 : weights.take(base + "lm_head.weight", {config.vocab_size, config.hidden_size});
  norm_ = weights.take(base + "model.norm.weight", {config.hidden_size});
  if (config.generation_expert) norm_gen_ = weights.take(base + "model.norm_moe_gen.weight", {config.hidden_size});
  for (int64_t i = 0; i < config.num_layers; ++i) {
    Layer& layer = layers_.emplace_back();
    layer.und = take_expert(config, weights, i, "", lora_enabled);
    if (config.generation_expert) layer.gen = take_expert(config, weights, i, "_moe_gen", lora_enabled);
  }
}

at::Tensor MotTransformer::embed(const at::Tensor& ids) const { return at::embedding(embed_tokens_, ids); }

at::Tensor MotTransformer::logits(const at::Tensor& hidden) const { return kernels::linear(hidden, lm_head_, {}); }

at::Tensor MotTransformer::until_stopped(at::Tensor x) const {
  stop_.throw_if_requested();
  if (x.requires_grad() && at::GradMode::is_enabled()) {
    x.register_hook([stop = stop_](const at::Tensor& /*grad*/) { stop.throw_if_requested(); });
  }
  return x;
}

namespace {

/// A fault point in the backward pass of a layer.
void point_in_backward(const at::Tensor& x, size_t layer) {
  if (!fault::enabled.load(std::memory_order_relaxed) || !x.requires_grad() || !at::GradMode::is_enabled()) return;
  x.register_hook([layer](const at::Tensor& /*grad*/) { fault::point(fmt::format("backward.block_{}", layer)); });
}

}  // namespace

MotTransformer::Streams MotTransformer::run_layer(size_t index, const Streams& x, const PackedTokens& tokens,
                                                  const kernels::RotaryTable& rotary, KvCache* cache) const {
  const int64_t dh = config_.head_dim;
  const double eps = config_.rms_norm_eps;
  const Layer& layer = layers_[index];
  fault::point("policy.layer");
  auto each = [&](const Streams& s, const auto& f) { return s.each(layer.und, layer.gen, f); };
  const Streams h =
      each(x, [&](const Expert& e, const at::Tensor& rows) { return kernels::rms_norm(rows, e.input_norm, eps); });
  const auto dropout = [&](const Expert& e) -> std::optional<nn::LoraDropout> {
    if (!tokens.dropout) return std::nullopt;
    const int64_t first = &e == &layer.und ? 0 : tokens.num_und;
    return tokens.dropout->narrowed(first, &e == &layer.und ? tokens.num_und : tokens.dropout->rows.size(0) - first);
  };
  auto heads = [&](nn::Linear Expert::*projection, int64_t num_heads) {
    return each(h, [&](const Expert& e, const at::Tensor& rows) {
      return (e.*projection)(rows, dropout(e)).view({rows.size(0), num_heads, dh});
    });
  };
  auto normed = [&](const Streams& s, at::Tensor Expert::*weight) {
    if (!config_.qk_norm) return s.join();
    return each(s, [&](const Expert& e, const at::Tensor& rows) { return kernels::rms_norm(rows, e.*weight, eps); })
        .join();
  };
  const at::Tensor q = kernels::apply_rotary(normed(heads(&Expert::q, config_.num_heads), &Expert::q_norm), rotary);
  at::Tensor k = kernels::apply_rotary(normed(heads(&Expert::k, config_.num_kv_heads), &Expert::k_norm), rotary);
  at::Tensor v = heads(&Expert::v, config_.num_kv_heads).join();  // [T, Hkv, Dh]
  if (cache) {
    const auto layer_index = static_cast<int64_t>(index);
    cache->keys(layer_index).index_copy_(0, tokens.cache_slots, k);
    cache->values(layer_index).index_copy_(0, tokens.cache_slots, v);
    k = cache->keys(layer_index);
    v = cache->values(layer_index);
  } else if (tokens.detached_copy) {
    k = at::cat({k, k.detach()}, 0);
    v = at::cat({v, v.detach()}, 0);
  }
  const at::Tensor mixed = until_stopped(tokens.layout->attend(q, k, v).flatten(1));  // [T, H * Dh]
  point_in_backward(mixed, index);
  const Streams attended = each(Streams::split(mixed, tokens.num_und),
                                [&](const Expert& e, const at::Tensor& rows) { return e.o(rows, dropout(e)); });
  const Streams y = {until_stopped(x.und + attended.und), x.gen + attended.gen};
  const Streams fed = each(y, [&](const Expert& e, const at::Tensor& rows) {
    const at::Tensor n = kernels::rms_norm(rows, e.post_attention_norm, eps);
    const at::Tensor gate = until_stopped(at::silu(e.gate(n, dropout(e))));
    return e.down(until_stopped(gate * e.up(n, dropout(e))), dropout(e));
  });
  return {y.und + fed.und, y.gen + fed.gen};
}

at::Tensor MotTransformer::forward(const at::Tensor& embeds, const PackedTokens& tokens, KvCache* cache) const {
  const kernels::RotaryTable rotary = kernels::rotary_table(tokens.position_ids, config_.head_dim, config_.rope_theta);
  Streams x = Streams::split(embeds, tokens.num_und);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (!recompute_ || cache) {
      x = run_layer(i, x, tokens, rotary, cache);
      continue;
    }
    const auto again = [this, i, tokens, rotary](const at::Tensor& und, const at::Tensor& gen) {
      const Streams y = run_layer(i, {und, gen}, tokens, rotary, nullptr);
      return std::pair(y.und, y.gen);
    };
    const parallel::UnitOf unit{.model = sharded_.get(), .unit = first_unit_ + i};
    std::tie(x.und, x.gen) = nn::recompute(again, x.und, x.gen, unit);
  }
  return x
      .each(norm_, norm_gen_,
            [&](const at::Tensor& weight, const at::Tensor& rows) {
              return kernels::rms_norm(rows, weight, config_.rms_norm_eps);
            })
      .join();
}

void MotTransformer::set_sharded(std::shared_ptr<parallel::ShardedModel> model, size_t first) {
  sharded_ = std::move(model);
  first_unit_ = first;
  recompute_ = recompute_ || sharded_->shard() == parallel::Shard::weights;
}

int64_t MotTransformer::layer_of(const std::string& name) const {
  const std::string base = config_.prefix + "model.layers.";
  return name.starts_with(base) ? std::stoll(name.substr(base.size())) : -1;
}

void MotTransformer::for_each_linear(const std::function<void(nn::Linear&)>& visit) {
  for (Layer& layer : layers_) {
    for (Expert* e : {&layer.und, &layer.gen}) {
      if (e == &layer.gen && !config_.generation_expert) continue;
      for (nn::Linear* linear : {&e->q, &e->k, &e->v, &e->o, &e->gate, &e->up, &e->down}) visit(*linear);
    }
  }
}

}  // namespace unigrpo::policy

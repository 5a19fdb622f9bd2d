#include "policy/mot_transformer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "base/fault.h"
#include "kernels/gather_log_prob.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "nn/gathered_products.h"
#include "nn/recompute.h"
#include "nn/sharded_step.h"
#include "nn/vocabulary.h"
#include "parallel/sharded_model.h"
#include "policy/layer_split.h"
#include "tensor/device.h"

namespace unigrpo::policy {

void PackedTokens::send(at::Device device, std::vector<at::Tensor*> more) {
  more.insert(more.end(), {&position_ids, &cache_slots});
  if (dropout) more.push_back(&dropout->rows);
  std::set<nn::AttentionLayout*> layouts = {layout.get()};
  for (const auto& split : splits) {
    if (!layouts.insert(split->layout.get()).second) continue;
    more.push_back(&split->position_ids);
    if (split->numbers.defined()) more.push_back(&split->numbers);
    for (const auto& exchange : {split->enter, split->begin, split->end}) {
      if (!exchange) continue;
      const std::vector<at::Tensor*> read = exchange->tensors();
      more.insert(more.end(), read.begin(), read.end());
    }
  }
  for (nn::AttentionLayout* one : layouts) {
    if (!one) continue;
    const std::vector<at::Tensor*> seen = one->tensors();
    more.insert(more.end(), seen.begin(), seen.end());
  }
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
    if (!y.und.defined() && !y.gen.defined()) y.und = f(und_expert, und);  // a rank's share may be empty
    if (!y.und.defined()) y.und = y.gen.narrow(0, 0, 0);
    if (!y.gen.defined()) y.gen = y.und.narrow(0, 0, 0);
    return y;
  }
};

/// A rank's part of a layer: all of it where ranks do not divide it.
class MotTransformer::Work {
 public:
  /// together: ranks that have all the same rows, and slices of the layer; null: none.
  Work(const LayerSplit* split, nn::RankGroup together)
      : split_(split), group_(split ? split->ranks.tensor : nullptr), together_(std::move(together)) {}

  /// Of the rows that columns() and sums() are given.
  int64_t num_und(const PackedTokens& tokens) const {
    if (group_) return sum_of(split_->und_counts);
    return split_ ? split_->num_und : tokens.num_und;
  }
  /// Own rows times some of the layer's linears, or, where ranks have slices, the rows of all of them times own slices.
  std::vector<Streams> columns(const Layer& layer, const Streams& own, const std::vector<Projection>& projections,
                               const PackedTokens& tokens) const {
    if (group_ && !tokens.dropout) return gathered_columns(layer, own, projections);
    const Streams rows = joint(own);
    std::vector<Streams> out;
    for (const Projection projection : projections) {
      out.push_back(rows.each(layer.und, layer.gen, [&](const Expert& e, const at::Tensor& x) {
        return (e.*projection)(x, dropout(tokens, &e == &layer.und));
      }));
    }
    return out;
  }
  /// What own slices of a linear give for those rows, summed over ranks and back in own rows.
  Streams sums(const Layer& layer, const Streams& rows, Projection projection, const PackedTokens& tokens) const {
    const Streams parts = rows.each(layer.und, layer.gen, [&](const Expert& e, const at::Tensor& x) {
      Dropout dropped = dropout(tokens, &e == &layer.und);
      if (dropped && group_) {
        dropped->part = group_->rank();
        dropped->parts = group_->size();
      }
      return (e.*projection)(x, dropped);
    });
    if (together_) return Streams::split(nn::sum_over(parts.join(), together_, "tensor sums"), parts.und.size(0));
    if (!group_) return parts;
    const at::Tensor own = nn::sum_scatter_both({parts.und, parts.gen}, counts(), group_, "tensor sums");
    return Streams::split(own, split_->und_counts[group_->rank()]);
  }
  const nn::SequenceShare* heads() const { return split_ ? split_->heads.get() : nullptr; }

 private:
  using Dropout = std::optional<nn::LoraDropout>;
  /// Of the rows that columns() and sums() are given.
  Dropout dropout(const PackedTokens& tokens, bool of_und) const {
    if (!tokens.dropout) return std::nullopt;
    const nn::LoraDropout all{.rate = tokens.dropout->rate,
                              .key = tokens.dropout->key,
                              .rows = split_ ? split_->numbers : tokens.dropout->rows};
    const int64_t first_gen = num_und(tokens);
    return of_und ? all.narrowed(0, first_gen) : all.narrowed(first_gen, all.rows.size(0) - first_gen);
  }
  Streams joint(const Streams& own) const {
    if (!group_) return own;
    const nn::RowPair rows = nn::gather_both(own.join(), counts(), group_, "tensor rows");
    return {rows.und, rows.gen};
  }
  std::vector<Streams> gathered_columns(const Layer& layer, const Streams& own,
                                        const std::vector<Projection>& projections) const {
    const nn::RowCounts rows = counts();
    // As Streams::each: of a kind of which there are no rows nothing is computed.
    const bool has_gen = sum_of(rows.gen) > 0, has_und = sum_of(rows.und) > 0 || !has_gen;
    nn::WeightPair weights;
    const auto add = [&](const Expert& e, std::vector<at::Tensor>& to) {
      for (const Projection projection : projections) {
        const nn::Linear& linear = e.*projection;
        to.push_back(linear.weight);
        if (linear.adapts()) to.push_back(linear.lora->a);
      }
    };
    if (has_und) add(layer.und, weights.und);
    if (has_gen) add(layer.gen, weights.gen);
    const nn::WeightPair products = nn::gathered_products(own.join(), rows, weights, group_, "tensor rows");
    auto und = products.und.begin(), gen = products.gen.begin();
    const auto next = [&](const Expert& e, Projection projection, auto& product) {
      const nn::Linear& linear = e.*projection;
      at::Tensor y = *product++;
      if (linear.bias.defined()) y = y + linear.bias;
      if (linear.adapts()) y = y + kernels::linear(*product++, linear.lora->b, at::Tensor()) * linear.lora->scale;
      return y;
    };
    std::vector<Streams> out;
    for (const Projection projection : projections) {
      Streams& y = out.emplace_back();
      if (has_und) y.und = next(layer.und, projection, und);
      if (has_gen) y.gen = next(layer.gen, projection, gen);
      if (!has_und) y.und = y.gen.narrow(0, 0, 0);
      if (!has_gen) y.gen = y.und.narrow(0, 0, 0);
    }
    return out;
  }
  static int64_t sum_of(const std::vector<int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), int64_t{0});
  }
  nn::RowCounts counts() const { return {split_->und_counts, split_->gen_counts}; }

  const LayerSplit* split_;
  nn::RankGroup group_, together_;
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

int64_t MotTransformer::first_id() const {
  return nn::share_begin(config_.vocab_size, tensor_ranks_->rank(), tensor_ranks_->size());
}

at::Tensor MotTransformer::embed(const at::Tensor& ids) const {
  if (embed_tokens_.size(0) == config_.vocab_size) return at::embedding(embed_tokens_, ids);
  return nn::sliced_embedding(embed_tokens_, ids, first_id(), tensor_ranks_);
}

at::Tensor MotTransformer::logits(const at::Tensor& hidden) const {
  const at::Tensor own = kernels::linear(hidden, lm_head_, {});
  return is_sliced() ? nn::whole_logits(own, config_.vocab_size, tensor_ranks_) : own;
}

at::Tensor MotTransformer::log_probs(const at::Tensor& hidden, const at::Tensor& ids, double temperature) const {
  const at::Tensor own = kernels::linear(hidden, lm_head_, {});
  if (is_sliced()) return nn::sliced_log_probs(own, ids, first_id(), temperature, tensor_ranks_);
  return kernels::gather_log_prob(own, ids, temperature).log_probs;
}

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
  const LayerSplit* split = tokens.splits.empty() ? nullptr : tokens.splits[index].get();
  const Work work(split, cache && is_sliced() ? tensor_ranks_ : nullptr);
  fault::point("policy.layer");
  auto each = [&](const Streams& s, const auto& f) { return s.each(layer.und, layer.gen, f); };
  const Streams h =
      each(x, [&](const Expert& e, const at::Tensor& rows) { return kernels::rms_norm(rows, e.input_norm, eps); });
  const std::vector<Streams> qkv = work.columns(layer, h, {&Expert::q, &Expert::k, &Expert::v}, tokens);
  auto heads = [&](const Streams& s) {  // [T, H, Dh]
    return Streams{s.und.view({s.und.size(0), s.und.size(1) / dh, dh}),
                   s.gen.view({s.gen.size(0), s.gen.size(1) / dh, dh})};
  };
  auto normed = [&](const Streams& s, at::Tensor Expert::*weight) {
    if (!config_.qk_norm) return s.join();
    return each(s, [&](const Expert& e, const at::Tensor& rows) { return kernels::rms_norm(rows, e.*weight, eps); })
        .join();
  };
  at::Tensor q = kernels::apply_rotary(normed(heads(qkv[0]), &Expert::q_norm), rotary);
  at::Tensor k = kernels::apply_rotary(normed(heads(qkv[1]), &Expert::k_norm), rotary);
  at::Tensor v = heads(qkv[2]).join();  // [T, Hkv, Dh]
  if (work.heads()) {
    const nn::AttentionHeads own = work.heads()->to_heads({q, k, v});
    std::tie(q, k, v) = std::tie(own.q, own.k, own.v);
  }
  if (cache) {
    const auto layer_index = static_cast<int64_t>(index);
    if (tokens.share) std::tie(k, v) = tokens.share->to_all(k, v);
    cache->keys(layer_index).index_copy_(0, tokens.cache_slots, k);
    cache->values(layer_index).index_copy_(0, tokens.cache_slots, v);
    k = cache->keys(layer_index);
    v = cache->values(layer_index);
  } else if (tokens.detached_copy) {
    k = at::cat({k, k.detach()}, 0);
    v = at::cat({v, v.detach()}, 0);
  }
  at::Tensor seen = (split ? split->layout : tokens.layout)->attend(q, k, v);  // [T, H, Dh]
  if (work.heads()) seen = work.heads()->to_rows(seen);
  const at::Tensor mixed = until_stopped(seen.flatten(1));  // [T, H * Dh]
  point_in_backward(mixed, index);
  const Streams attended = work.sums(layer, Streams::split(mixed, work.num_und(tokens)), &Expert::o, tokens);
  const Streams y = {until_stopped(x.und + attended.und), x.gen + attended.gen};
  const Streams n = each(
      y, [&](const Expert& e, const at::Tensor& rows) { return kernels::rms_norm(rows, e.post_attention_norm, eps); });
  const std::vector<Streams> gated = work.columns(layer, n, {&Expert::gate, &Expert::up}, tokens);
  const Streams inner = each(gated[0], [&](const Expert& e, const at::Tensor& rows) {
    const at::Tensor gate = until_stopped(at::silu(rows));
    return until_stopped(gate * (&e == &layer.und ? gated[1].und : gated[1].gen));
  });
  const Streams fed = work.sums(layer, inner, &Expert::down, tokens);
  return {y.und + fed.und, y.gen + fed.gen};
}

/// One, or one a layer where ranks divide them.
std::vector<kernels::RotaryTable> MotTransformer::rotary_tables(const PackedTokens& tokens) const {
  const auto table = [&](const at::Tensor& positions) {
    return kernels::rotary_table(positions, config_.head_dim, config_.rope_theta);
  };
  std::vector<kernels::RotaryTable> tables;
  if (tokens.splits.empty()) tables.push_back(table(tokens.position_ids));
  for (size_t i = 0; i < tokens.splits.size(); ++i) {
    const bool same = i > 0 && tokens.splits[i] == tokens.splits[i - 1];
    tables.push_back(same ? tables.back() : table(tokens.splits[i]->position_ids));
  }
  return tables;
}

MotTransformer::Streams MotTransformer::run_all(Streams x, const PackedTokens& tokens, KvCache* cache, size_t first,
                                                size_t last) const {
  const std::vector<kernels::RotaryTable> tables = rotary_tables(tokens);
  const auto exchanged = [&](const std::shared_ptr<nn::RowExchange>& exchange, int64_t num_und) {
    if (exchange) x = Streams::split((*exchange)(x.join()), num_und);
  };
  for (size_t i = first; i < last; ++i) {
    if (!tokens.splits.empty() && (i == first || tokens.splits[i] != tokens.splits[i - 1])) {
      const LayerSplit& split = *tokens.splits[i];
      exchanged(i == first ? split.begin : split.enter, split.num_und);
    }
    const kernels::RotaryTable& rotary = tables.size() == 1 ? tables.front() : tables[i];
    const bool recomputes = !recompute_.empty() && recompute_[i];
    const bool is_shared = sharded_ && sharded_->shares_weights(first_unit_ + i);
    if (cache || (!recomputes && !is_shared)) {
      x = run_layer(i, x, tokens, rotary, cache);
      continue;
    }
    const auto step = [this, i, tokens, rotary](const at::Tensor& und, const at::Tensor& gen) {
      const Streams y = run_layer(i, {und, gen}, tokens, rotary, nullptr);
      return std::pair(y.und, y.gen);
    };
    const parallel::UnitOf unit{.model = sharded_.get(), .unit = first_unit_ + i};
    std::tie(x.und, x.gen) = (recomputes ? nn::recompute : nn::sharded_step)(step, x.und, x.gen, unit);
  }
  if (!tokens.splits.empty()) exchanged(tokens.splits[last - 1]->end, tokens.num_und);
  return x;
}

MotTransformer::Streams MotTransformer::normed(const Streams& x) const {
  return x.each(norm_, norm_gen_, [&](const at::Tensor& weight, const at::Tensor& rows) {
    return kernels::rms_norm(rows, weight, config_.rms_norm_eps);
  });
}

at::Tensor MotTransformer::forward(const at::Tensor& embeds, const PackedTokens& tokens, KvCache* cache) const {
  return normed(run_all(Streams::split(embeds, tokens.num_und), tokens, cache, 0, layers_.size())).join();
}

at::Tensor MotTransformer::run_layers(const at::Tensor& x, const PackedTokens& tokens, int64_t first,
                                      int64_t last) const {
  return run_all(Streams::split(x, tokens.num_und), tokens, nullptr, static_cast<size_t>(first),
                 static_cast<size_t>(last))
      .join();
}

at::Tensor MotTransformer::normed(const at::Tensor& x, const PackedTokens& tokens) const {
  return normed(Streams::split(x, tokens.num_und)).join();
}

std::vector<std::string> MotTransformer::head_names() const {
  std::vector<std::string> names = {config_.prefix + "model.norm.weight"};
  names.push_back(config_.prefix + (config_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight"));
  if (config_.generation_expert) names.push_back(config_.prefix + "model.norm_moe_gen.weight");
  return names;
}

void MotTransformer::set_sharded(std::shared_ptr<parallel::ShardedModel> model, size_t first) {
  sharded_ = std::move(model);
  first_unit_ = first;
}

bool MotTransformer::generates_in_slices() const {
  return sharded_ && sharded_->rollout_form() == parallel::ShardedModel::Form::slices;
}

int64_t MotTransformer::cached_heads() const {
  return config_.num_kv_heads / (generates_in_slices() ? tensor_ranks_->size() : 1);
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

std::map<std::string, int64_t> MotTransformer::sliced_dimensions() const {
  std::map<std::string, int64_t> dimensions;
  const auto add = [&](const nn::Linear& linear, int64_t dim) {
    dimensions[linear.name + ".weight"] = dim;
    if (linear.bias.defined()) dimensions[linear.name + ".bias"] = dim;
    if (linear.lora) dimensions[linear.name + (dim == 0 ? ".lora_B.weight" : ".lora_A.weight")] = dim;
  };
  dimensions[config_.prefix + "model.embed_tokens.weight"] = 0;
  if (!config_.tie_word_embeddings) dimensions[config_.prefix + "lm_head.weight"] = 0;
  for (const Layer& layer : layers_) {
    for (const Expert* e : {&layer.und, &layer.gen}) {
      if (e == &layer.gen && !config_.generation_expert) continue;
      for (const nn::Linear* linear : {&e->q, &e->k, &e->v, &e->gate, &e->up}) add(*linear, 0);
      for (const nn::Linear* linear : {&e->o, &e->down}) add(*linear, 1);
    }
  }
  return dimensions;
}

}  // namespace unigrpo::policy

#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/signals.h"
#include "kernels/rotary.h"
#include "nn/attention.h"
#include "nn/linear.h"
#include "nn/sequence_share.h"
#include "nn/weights.h"
#include "policy/kv_cache.h"
#include "policy/mot_config.h"

namespace unigrpo::parallel {
class ShardedModel;
}

namespace unigrpo::policy {

struct LayerSplit;  // layer_split.h

/// Tokens of many sequences in one row order: understanding tokens first, then generation (latent) tokens. Where ranks
/// share them, those of this rank; each layer then has a layout of its own. With a cache, which every rank has whole,
/// or of its key heads, the layout is of this rank's rows, and the slots are those of all rows in rank order.
struct PackedTokens {
  int64_t num_und = 0;      // rows before this use the understanding weights, the others `_moe_gen`; all rows
                            // where there is no generation expert
  at::Tensor position_ids;  // [T] int64
  std::shared_ptr<nn::AttentionLayout> layout;
  at::Tensor cache_slots;      // [T] int64 where there is a cache: rows of the pool to write
  bool detached_copy = false;  // without a cache: pool rows T..2T-1 are the same keys and values, detached
  std::optional<nn::LoraDropout> dropout = std::nullopt;
  std::shared_ptr<const nn::SequenceShare> share = nullptr;
  std::vector<std::shared_ptr<LayerSplit>> splits = {};  // [layers] where there is a share and no cache

  /// Moves what was made on the host to a device, together with what else the forward pass needs there, in one copy.
  void send(at::Device device, std::vector<at::Tensor*> more);
};

/// Qwen2 layers (Qwen2.5 technical report, arXiv 2412.15115): grouped-query attention with biases on q, k and v, rotary
/// positions, SwiGLU. With a generation expert a mixture-of-transformers (BAGEL, arXiv 2505.14683): two sets of weights
/// and one attention.
class MotTransformer {
 public:
  MotTransformer(const MotConfig& config, nn::Weights& weights, const bool* lora_enabled);

  /// ids: [T] int64 -> [T, D]; the same ones on ranks with slices.
  at::Tensor embed(const at::Tensor& ids) const;

  /// embeds: [T, D] in the order of `tokens`. With a cache the new keys and values are written to it and queries see
  /// the pool (no gradients); without one the pool is the packed rows themselves. Returns the final hidden states [T,
  /// D].
  at::Tensor forward(const at::Tensor& embeds, const PackedTokens& tokens, KvCache* cache) const;
  /// A part of forward() without a cache: layers first .. last - 1, [T, D] -> [T, D]; and what follows the last layer.
  at::Tensor run_layers(const at::Tensor& x, const PackedTokens& tokens, int64_t first, int64_t last) const;
  at::Tensor normed(const at::Tensor& x, const PackedTokens& tokens) const;

  /// hidden: [T, D] -> [T, V]; the same rows on ranks with slices, which have no gradients of this.
  at::Tensor logits(const at::Tensor& hidden) const;
  /// hidden: [T, D], ids: [T] -> [T], their log-probs (kernels/gather_log_prob.h); the same rows on ranks with slices.
  at::Tensor log_probs(const at::Tensor& hidden, const at::Tensor& ids, double temperature) const;

  const MotConfig& config() const { return config_; }
  /// dtype and device of the weights.
  at::TensorOptions options() const { return embed_tokens_.options(); }
  /// These layers keep their inputs alone for the backward pass and run again there.
  void set_recompute(std::vector<bool> layers) { recompute_ = std::move(layers); }
  void set_recompute(bool all) { recompute_.assign(layers_.size(), all); }
  bool recomputes() const { return std::ranges::count(recompute_, true) > 0; }
  /// The layers are the units from `first` on of a model that is spread over ranks.
  void set_sharded(std::shared_ptr<parallel::ShardedModel> model, size_t first);
  parallel::ShardedModel* sharded() const { return sharded_.get(); }
  /// The ranks that divide the products of all layers: each has an even run of the vocabulary, too.
  void set_tensor_ranks(nn::RankGroup ranks) { tensor_ranks_ = std::move(ranks); }
  /// Whether generation is done with slices; and how many key heads are this rank's in it.
  bool generates_in_slices() const;
  int64_t cached_heads() const;
  /// Whether this rank has its slices of the head now, not what is whole.
  bool is_sliced() const { return lm_head_.size(0) < config_.vocab_size; }
  /// Of the weights of no layer, those that are used after the last one.
  std::vector<std::string> head_names() const;
  /// Whether it is used before the first one as well.
  bool is_tied(const std::string& name) const {
    return config_.tie_word_embeddings && name == config_.prefix + "model.embed_tokens.weight";
  }
  /// Which layer a weight belongs to by its name, from 0; -1: none.
  int64_t layer_of(const std::string& name) const;
  /// Forward and backward throw Interrupted within a part of a layer once a stop is asked for: with billions of weights
  /// a pass takes minutes on a CPU.
  void set_stop(StopToken stop) { stop_ = stop; }
  StopToken stop() const { return stop_; }
  /// Every linear layer, for LoRA.
  void for_each_linear(const std::function<void(nn::Linear&)>& visit);
  /// Of the linears' parameters, adapters' included, and the vocabulary's: of which ranks that divide a layer have
  /// slices, of their rows (0) or their columns (1).
  std::map<std::string, int64_t> sliced_dimensions() const;

 private:
  struct Expert {
    at::Tensor input_norm, post_attention_norm, q_norm, k_norm;  // the last two with qk_norm
    nn::Linear q, k, v, o, gate, up, down;
  };
  using Projection = nn::Linear Expert::*;
  struct Layer {
    Expert und, gen;  // gen is empty without a generation expert
  };
  struct Streams;  // the packed rows, one tensor an expert
  /// x itself, which neither forward nor backward pass once a stop is asked for.
  at::Tensor until_stopped(at::Tensor x) const;
  class Work;  // how a layer's is divided among ranks
  Streams run_layer(size_t index, const Streams& x, const PackedTokens& tokens, const kernels::RotaryTable& rotary,
                    KvCache* cache) const;
  Streams run_all(Streams x, const PackedTokens& tokens, KvCache* cache, size_t first, size_t last) const;
  Streams normed(const Streams& x) const;
  std::vector<kernels::RotaryTable> rotary_tables(const PackedTokens& tokens) const;
  int64_t first_id() const;  // of the own slice of the vocabulary
  static Expert take_expert(const MotConfig& config, nn::Weights& weights, int64_t layer, const std::string& suffix,
                            const bool* lora_enabled);

  MotConfig config_;
  at::Tensor embed_tokens_, lm_head_, norm_, norm_gen_;
  std::vector<Layer> layers_;
  std::vector<bool> recompute_;  // of each layer; empty: none
  std::shared_ptr<parallel::ShardedModel> sharded_;
  size_t first_unit_ = 0;
  nn::RankGroup tensor_ranks_;
  StopToken stop_;
};

}  // namespace unigrpo::policy

#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "policy/config.h"
#include "policy/layer_split.h"
#include "policy/mot_transformer.h"
#include "policy/placement.h"
#include "policy/policy.h"
#include "runtime/runtime.h"

namespace unigrpo::policy {

/// What the families share: a policy around one MotTransformer, with its tokenizer, cache, parameters and adapters. A
/// text block is <|im_start|> text <|im_end|>. A family adds how it reads and generates images, and the packed forward.
class MotPolicy : public UnifiedPolicy {
 public:
  const data::Tokenizer& tokenizer() const override { return *tokenizer_; }
  int64_t bos_id() const override { return bos_; }
  int64_t eos_id() const override { return eos_; }
  int64_t max_positions() const override { return llm_->config().max_positions; }
  Context fork(const Context& parent) override { return cache_.fork(parent); }
  void release(Context& context) override { cache_.release(context); }
  void reserve(int64_t tokens) override { cache_.reserve(tokens); }
  const KvCache& cache() const { return cache_; }
  void use_graphs(const tensor::MakeGraph& make) override { steps_.set(make); }
  at::Tensor append_text(std::span<Context* const> rows, std::span<const std::vector<int64_t>> ids) override;

  TrainOutput forward_train(const TrainBatch& batch) override;
  std::unique_ptr<StagedForward> staged_forward(const TrainBatch& batch) override;
  at::Tensor logits(const at::Tensor& hidden) const override { return llm_->logits(hidden); }
  at::Tensor log_probs(const at::Tensor& hidden, const at::Tensor& ids, double temperature) const override;
  NamedTensors parameters() const override { return parameters_; }
  NamedTensors merged() const override;
  void enable_adapters(bool on) override { *adapters_on_ = on; }
  uint64_t adapter_state() const override;
  uint64_t weights_version() const override;
  bool recomputes() const override { return llm_->recomputes(); }
  at::Device device() const override { return llm_->options().device(); }
  std::vector<int64_t> sequence_degrees() const override;
  void share_sequences(int64_t degree) override;
  std::vector<NamedTensors> units(bool with_adapters) const override;
  std::map<std::string, int64_t> sliced_dimensions() const override { return llm_->sliced_dimensions(); }
  std::vector<std::string> head_names() const override { return llm_->head_names(); }
  bool is_tied(const std::string& name) const override { return llm_->is_tied(name); }
  void set_sharded(const std::shared_ptr<parallel::ShardedModel>& model, size_t first) override;
  parallel::ShardedModel* sharded() const override { return llm_->sharded(); }

 protected:
  /// Takes the language model's weights. Throws BadInput naming the folder where the tokenizer has no block tokens, or
  /// more ids than the model.
  MotPolicy(const MotConfig& llm, nn::Weights& weights, std::unique_ptr<data::Tokenizer> tokenizer,
            const std::filesystem::path& folder);

  /// A copy shares all but the cache, of which it has an empty one.
  MotPolicy(const MotPolicy& other);

  /// Once every part has its weights: makes them the policy's parameters. Throws as Weights::finish does.
  void adopt(const nn::Weights& weights);
  /// What trains: all but the frozen, or adapters keyed by the runtime's seed; what ends its passes is the runtime's
  /// stop. Throws BadInput where no weight matches a LoRA target.
  void prepare(const PolicyConfig& config, const Runtime& runtime);
  /// The batch for MotTransformer::forward without a cache, sent to the device together with `more`; with dropout where
  /// gradients are recorded, keyed by the update and, row by row, by sequence and place in it. Where ranks share
  /// sequences it is of this rank's rows.
  PackedTokens packed(const Placement& placed, uint64_t update, const std::vector<at::Tensor*>& more) const;
  /// A batch on its way through the layers, and what its embeddings are made of, on the device.
  struct TrainForward {
    Placement placed;
    PackedTokens tokens = {};
    at::Tensor ids = {}, vision_rows = {}, text_rows = {};
    at::Tensor noisy = {}, noisy_t = {};  // [sum of S, L, C], [sum of S], where there are noisy images
  };
  /// The packed forward: its batch, the embeddings of all rows, and what a model says by the final hidden states of own
  /// rows.
  virtual TrainForward begin_train(const TrainBatch& batch) const = 0;
  virtual at::Tensor embeds_of(const TrainForward& forward) const = 0;
  virtual TrainOutput finish_train(const TrainForward& forward, const at::Tensor& hidden) const = 0;
  /// The ranks that share the rows of images that are denoised; null: there are no others.
  nn::RankGroup denoising_ranks() const;
  /// The hidden states of the texts, on all ranks that share the rows. hidden: of hidden_of(); text_rows: on the
  /// device.
  at::Tensor text_hidden(const at::Tensor& hidden, const PackedTokens& tokens, const Placement& placed,
                         const at::Tensor& text_rows) const;
  /// Empty where steps are not recorded, or cannot be: those of ranks that share sequences talk to each other.
  const tensor::MakeGraph& graphs() const;
  /// The id of a special token. Throws BadInput naming the folder.
  int64_t special_id(const std::string& token) const;
  const std::filesystem::path& folder() const { return folder_; }

 private:
  /// Logits after `last_rows`, [B, V] float32; on the device all.
  at::Tensor next_logits(const at::Tensor& ids, const PackedTokens& tokens, const at::Tensor& last_rows);
  /// The same of one token a row, recorded. The layout's index, the rest of `tokens` and ids: on the host.
  at::Tensor recorded_logits(at::Tensor ids, PackedTokens tokens, at::Tensor last_rows);
  void attach_lora(const PolicyConfig& config, uint64_t seed);
  void take_stage(const parallel::Groups* groups);
  /// The embeddings of own rows.
  at::Tensor own_embeds(const TrainForward& forward) const;
  friend class MotStagedForward;

  std::filesystem::path folder_;
  std::shared_ptr<const data::Tokenizer> tokenizer_;
  int64_t bos_ = 0, eos_ = 0;
  NamedTensors parameters_;
  std::shared_ptr<bool> adapters_on_ = std::make_shared<bool>(true);
  nn::LoraDropout dropout_;
  std::shared_ptr<const ModelRanks> ranks_;  // that work on the same sequences; null: this one alone
  std::map<int64_t, std::shared_ptr<const ModelRanks>> blocks_;  // that may, by how many they are
  StopToken stop_;                                               // of passes that this rank makes alone
  int64_t first_layer_ = 0, last_layer_ = 0;                     // of the own stage: from the first to before the last

 protected:
  std::shared_ptr<MotTransformer> llm_;
  KvCache cache_;

 private:
  tensor::RecordedSteps steps_;       // of decoding; a copy of the policy has its own
  int64_t recorded_allocations_ = 0;  // of the cache when they were recorded
};

/// A model folder's weights on the runtime's device in the config's dtype, a tied copy of lm_head left out. Throws
/// BadInput naming the folder where there are none, Interrupted where a stop came meanwhile.
nn::Weights open_weights(const PolicyConfig& config, const MotConfig& llm, const Runtime& runtime);

}  // namespace unigrpo::policy

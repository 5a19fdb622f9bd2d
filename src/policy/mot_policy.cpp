#include "policy/mot_policy.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"
#include "io/model_folder.h"
#include "parallel/groups.h"
#include "parallel/sharded_model.h"
#include "policy/family.h"
#include "policy/merge_lora.h"
#include "policy/patterns.h"
#include "runtime/ranks.h"
#include "tensor/convert.h"
#include "tensor/device.h"
#include "tensor/rng.h"

namespace unigrpo::policy {
namespace {

using tensor::index_tensor;

/// Throws BadInput naming `key` where so many ranks cannot have even parts of something, with what would do.
void check_divides(const char* key, int64_t ranks, int64_t parts, const char* what, const std::string& model) {
  if (parts % ranks == 0) return;
  std::vector<std::string> others;
  for (int64_t n = 1; n <= parts; ++n) {
    if (parts % n == 0) others.push_back(std::to_string(n));
  }
  throw BadInput("{}: {} ranks cannot share the {} {} of {}; expected one of {}", key, ranks, parts, what, model,
                 join(others, ", "));
}

/// Throws BadInput where a plan of layers is not of this model's.
void check_plan(const MotConfig& llm, const parallel::GroupShape& shape, const std::string& model) {
  if (shape.layers.empty() || static_cast<int64_t>(shape.layers.size()) == llm.num_layers) return;
  throw BadInput("{}: {} layers; {} has {} (num_hidden_layers)", shape.plan_file, shape.layers.size(), model,
                 llm.num_layers);
}

std::vector<bool> recomputed_layers(const MotConfig& llm, const parallel::Groups* groups, bool otherwise) {
  std::vector<bool> layers(static_cast<size_t>(llm.num_layers), otherwise);
  if (!groups || groups->shape.layers.empty()) return layers;
  for (size_t i = 0; i < layers.size(); ++i) layers[i] = groups->shape.layers[i].recompute;
  return layers;
}

std::shared_ptr<const ModelRanks> model_ranks(const MotConfig& llm, const parallel::Groups& groups,
                                              const std::string& model) {
  std::vector<parallel::LayerGroups> layers = groups.layers;
  if (layers.empty()) {
    const parallel::LayerGroups alike{
        .tp = groups.shape.tp, .sp = groups.shape.sp, .tensor = groups.tensor, .sequence = groups.sequence};
    layers.assign(static_cast<size_t>(llm.num_layers), alike);
  }
  auto ranks = std::make_shared<ModelRanks>();
  ranks->all = groups.model;
  ranks->tensor = groups.tensor;
  ranks->sequence = groups.sequence;
  for (const parallel::LayerGroups& layer : layers) {
    check_divides("parallel.tp", layer.tp, llm.num_kv_heads, "key heads (num_key_value_heads)", model);
    check_divides("parallel.tp", layer.tp, llm.intermediate_size, "inner units (intermediate_size)", model);
    check_divides(
        "parallel.sp", layer.sp, llm.num_heads / layer.tp,
        layer.tp > 1 ? "query heads (num_attention_heads / parallel.tp)" : "query heads (num_attention_heads)", model);
    ranks->layers.push_back({.tp = layer.tp,
                             .sp = layer.sp,
                             .dp = groups.shape.tp * groups.shape.sp / (layer.tp * layer.sp),
                             .tensor = layer.tensor,
                             .sequence = layer.sequence});
  }
  return ranks;
}

/// Blocks that may share sequences for a while: those whose ranks have even shares of the query heads.
std::map<int64_t, std::shared_ptr<const ModelRanks>> flexible_ranks(const MotConfig& llm,
                                                                    const parallel::Groups& groups) {
  std::map<int64_t, std::shared_ptr<const ModelRanks>> blocks;
  for (const auto& [size, block] : groups.blocks) {
    if (llm.num_heads % size != 0) continue;
    auto ranks = std::make_shared<ModelRanks>();
    ranks->all = ranks->sequence = block;
    ranks->layers.assign(static_cast<size_t>(llm.num_layers), {.sp = size, .tensor = nullptr, .sequence = block});
    blocks[size] = std::move(ranks);
  }
  return blocks;
}

bool is_adapter(const std::string& name) { return name.find(".lora_") != std::string::npos; }

KvCache empty_cache(const MotTransformer& llm) {
  const MotConfig& config = llm.config();
  return {config.num_layers, llm.cached_heads(), config.head_dim, llm.options()};
}

}  // namespace

nn::Weights open_weights(const PolicyConfig& config, const MotConfig& llm, const Runtime& runtime) {
  const std::filesystem::path folder = config.model;
  const char* single = family_of(folder).weights_file;
  const auto path = io::find_weights(folder, single);
  if (!path) throw BadInput("{}: no {} (or *.safetensors.index.json) in this model folder", folder.string(), single);
  const at::ScalarType dtype = config.dtype == DtypeChoice::bfloat16 ? at::kBFloat16 : at::kFloat;
  return nn::open_weights(*path, at::TensorOptions(dtype).device(runtime.device), [&](const std::string& name) {
    runtime.stop.throw_if_requested();
    return !is_tied_copy(llm, name);
  });
}

MotPolicy::MotPolicy(const MotConfig& llm, nn::Weights& weights, std::unique_ptr<data::Tokenizer> tokenizer,
                     const std::filesystem::path& folder)
    : folder_(folder),
      tokenizer_(std::move(tokenizer)),
      llm_(std::make_shared<MotTransformer>(llm, weights, adapters_on_.get())),
      cache_(empty_cache(*llm_)) {
  if (tokenizer_->vocab_size() > llm.vocab_size) {
    throw BadInput("{}: the tokenizer has {} ids, the config says vocab_size {}", folder.string(),
                   tokenizer_->vocab_size(), llm.vocab_size);
  }
  bos_ = special_id("<|im_start|>");
  eos_ = special_id("<|im_end|>");
}

MotPolicy::MotPolicy(const MotPolicy& other)
    : UnifiedPolicy(),
      folder_(other.folder_),
      tokenizer_(other.tokenizer_),
      bos_(other.bos_),
      eos_(other.eos_),
      parameters_(other.parameters_),
      adapters_on_(other.adapters_on_),
      dropout_(other.dropout_),
      ranks_(other.ranks_),
      blocks_(other.blocks_),
      stop_(other.stop_),
      first_layer_(other.first_layer_),
      last_layer_(other.last_layer_),
      llm_(other.llm_),
      cache_(empty_cache(*llm_)) {}

void MotPolicy::adopt(const nn::Weights& weights) {
  weights.finish();
  for (const auto& [name, tensor] : weights.tensors()) parameters_.push_back({name, tensor});
}

int64_t MotPolicy::special_id(const std::string& token) const {
  const auto found = tokenizer_->special_tokens().find(token);
  if (found == tokenizer_->special_tokens().end()) {
    throw BadInput("{}: the tokenizer has no special token '{}'", folder_.string(), token);
  }
  return found->second;
}

void MotPolicy::prepare(const PolicyConfig& config, const Runtime& runtime) {
  const bool full = config.train == TrainMode::full;
  for (NamedTensor& parameter : parameters_) {
    parameter.tensor.set_requires_grad(full && !matches_any(config.freeze, parameter.name));
  }
  if (!full) attach_lora(config, runtime.seed);
  dropout_ = {.rate = full ? 0 : config.lora.dropout, .key = {.seed = runtime.seed, .purpose = Purpose::dropout}};
  if (runtime.groups) check_plan(llm_->config(), runtime.groups->shape, config.model);
  llm_->set_recompute(recomputed_layers(llm_->config(), runtime.groups.get(), config.recompute));
  take_stage(runtime.groups.get());
  if (!shares_sequences(runtime)) {
    // Nor may a rank leave a pass that goes through the stages.
    if (!runtime.groups || !runtime.groups->pipeline) stop_ = runtime.stop;
    llm_->set_stop(stop_);
    if (runtime.groups) blocks_ = flexible_ranks(llm_->config(), *runtime.groups);
    return;
  }
  // Ranks that work on one sequence must all end a pass, or none: they are asked between passes.
  ranks_ = model_ranks(llm_->config(), *runtime.groups, config.model);
  const auto& tensor = ranks_->tensor;
  if (std::ranges::all_of(ranks_->layers, [&](const LayerRanks& layer) { return layer.tensor == tensor; })) {
    llm_->set_tensor_ranks(tensor);
  }
}

void MotPolicy::take_stage(const parallel::Groups* groups) {
  last_layer_ = llm_->config().num_layers;
  if (!groups || !groups->pipeline) return;
  const std::vector<parallel::LayerPlan>& layers = groups->shape.layers;
  const auto [first, last] = std::ranges::equal_range(layers, groups->stage, {}, &parallel::LayerPlan::stage);
  first_layer_ = first - layers.begin();
  last_layer_ = last - layers.begin();
}

std::vector<int64_t> MotPolicy::sequence_degrees() const {
  std::vector<int64_t> degrees = {1};
  for (const auto& [degree, ranks] : blocks_) degrees.push_back(degree);
  return degrees;
}

void MotPolicy::share_sequences(int64_t degree) {
  ranks_ = degree > 1 ? blocks_.at(degree) : nullptr;
  llm_->set_stop(degree > 1 ? StopToken() : stop_);  // all of them end a pass, or none
}

nn::RankGroup MotPolicy::denoising_ranks() const {
  if (!ranks_) return nullptr;
  return llm_->generates_in_slices() ? ranks_->sequence : ranks_->all;
}

void MotPolicy::set_sharded(const std::shared_ptr<parallel::ShardedModel>& model, size_t first) {
  llm_->set_sharded(model, first);
  cache_ = empty_cache(*llm_);
}

PackedTokens MotPolicy::packed(const Placement& placed, uint64_t update, const std::vector<at::Tensor*>& more) const {
  PackedTokens tokens = placed.packed(llm_->options(), ranks_.get());
  if (dropout_.rate > 0 && at::GradMode::is_enabled()) {
    tokens.dropout = dropout_;
    tokens.dropout->key.step = update;
    const at::Tensor numbers = index_tensor(placed.row_numbers());
    tokens.dropout->rows = numbers;
    for (const auto& split : tokens.splits) split->numbers = numbers.index_select(0, split->rows);
  }
  tokens.send(device(), more);
  return tokens;
}

at::Tensor MotPolicy::own_embeds(const TrainForward& forward) const {
  const at::Tensor embeds = embeds_of(forward);
  const auto& share = forward.tokens.share;
  return share ? embeds.index_select(0, index_tensor(share->rows(), device())) : embeds;
}

TrainOutput MotPolicy::forward_train(const TrainBatch& batch) {
  const TrainForward forward = begin_train(batch);
  if (forward.placed.text_rows.empty() && forward.placed.noisy.empty()) {
    TrainOutput nothing;
    nothing.digests = forward.placed.digests;
    return nothing;
  }
  return finish_train(forward, llm_->forward(own_embeds(forward), forward.tokens, nullptr));
}

class MotStagedForward : public StagedForward {
 public:
  MotStagedForward(const MotPolicy& policy, const TrainBatch& batch)
      : policy_(policy), forward_(policy.begin_train(batch)) {}

  at::Tensor border() const override {
    const PackedTokens& tokens = forward_.tokens;
    const int64_t rows = tokens.share ? std::ssize(tokens.share->rows()) : forward_.placed.num_rows;
    return at::empty({rows, policy_.llm_->config().hidden_size}, policy_.llm_->options().requires_grad(false));
  }
  at::Tensor run(const at::Tensor& before) override {
    const at::Tensor x = policy_.first_layer_ == 0 ? policy_.own_embeds(forward_) : before;
    return policy_.llm_->run_layers(x, forward_.tokens, policy_.first_layer_, policy_.last_layer_);
  }
  TrainOutput finish(const at::Tensor& after) override {
    return policy_.finish_train(forward_, policy_.llm_->normed(after, forward_.tokens));
  }

 private:
  const MotPolicy& policy_;
  const MotPolicy::TrainForward forward_;
};

std::unique_ptr<StagedForward> MotPolicy::staged_forward(const TrainBatch& batch) {
  return std::make_unique<MotStagedForward>(*this, batch);
}

at::Tensor MotPolicy::text_hidden(const at::Tensor& hidden, const PackedTokens& tokens, const Placement& placed,
                                  const at::Tensor& text_rows) const {
  if (!tokens.share) return hidden.index_select(0, text_rows);
  const at::Tensor held = index_tensor(tokens.share->held(placed.text_rows), device());
  return tokens.share->gathered(hidden.index_select(0, held), placed.text_rows, nn::GatheredGradient::part);
}

// Logits are the largest tensor of all: ranks that share sequences divide the tokens among them, those with slices of
// the vocabulary that.
at::Tensor MotPolicy::log_probs(const at::Tensor& hidden, const at::Tensor& ids, double temperature) const {
  nn::RankGroup sharing;
  if (ranks_) sharing = llm_->is_sliced() ? ranks_->sequence : ranks_->all;
  if (!sharing) return llm_->log_probs(hidden, ids, temperature);
  const int64_t total = ids.size(0), rank = sharing->rank(), ranks = sharing->size();
  const int64_t first = nn::share_begin(total, rank, ranks);
  const int64_t count = nn::share_begin(total, rank + 1, ranks) - first;
  const at::Tensor own = llm_->log_probs(hidden.narrow(0, first, count), ids.narrow(0, first, count), temperature);
  return nn::gather_rows(own, nn::even_shares(total, ranks), sharing, nn::GatheredGradient::alike, "log-probs");
}

void MotPolicy::attach_lora(const PolicyConfig& config, uint64_t seed) {
  const LoraConfig& lora = config.lora;
  NamedTensors linears;
  llm_->for_each_linear([&](const nn::Linear& linear) { linears.push_back({linear.name + ".weight", linear.weight}); });
  check_targets(config, linears);
  llm_->for_each_linear([&](nn::Linear& linear) {
    if (!matches_any(lora.targets, linear.name + ".weight")) return;
    // As PEFT starts: A is Kaiming uniform with a = sqrt(5), which is U(-1/sqrt(in), 1/sqrt(in)), whatever layer it is
    // for; B is 0, so that the adapted model starts as the base.
    const int64_t out = linear.weight.size(0), in = linear.weight.size(1);
    const std::string name = linear.name + ".lora_A.weight";
    const at::Tensor u =
        tensor::uniform({lora.rank, in}, {.seed = seed, .prompt = fnv1a64(name), .purpose = Purpose::parameter_init});
    auto adapter = std::make_unique<nn::LoraAdapter>();
    adapter->a = ((2 * u - 1) / std::sqrt(static_cast<double>(in))).to(linear.weight.options()).set_requires_grad(true);
    adapter->b = at::zeros({out, lora.rank}, linear.weight.options()).set_requires_grad(true);
    adapter->scale = lora.alpha / static_cast<double>(lora.rank);
    parameters_.push_back({name, adapter->a});
    parameters_.push_back({linear.name + ".lora_B.weight", adapter->b});
    linear.lora = std::move(adapter);
  });
}

NamedTensors MotPolicy::merged() const {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> changed;
  llm_->for_each_linear([&](const nn::Linear& linear) {
    if (!linear.lora) return;
    llm_->stop().throw_if_requested();
    changed[linear.name + ".weight"] = merge_lora(linear.weight, linear.lora->a, linear.lora->b, linear.lora->scale);
  });
  NamedTensors weights;
  for (const NamedTensor& parameter : parameters_) {
    if (is_adapter(parameter.name)) continue;
    const auto found = changed.find(parameter.name);
    weights.push_back({parameter.name, found == changed.end() ? parameter.tensor.detach() : found->second});
  }
  return weights;
}

uint64_t MotPolicy::adapter_state() const {
  uint64_t adapters = 0;
  for (const NamedTensor& parameter : parameters_) adapters += is_adapter(parameter.name) ? 1 : 0;
  return 2 * adapters + (*adapters_on_ ? 1 : 0);
}

std::vector<NamedTensors> MotPolicy::units(bool with_adapters) const {
  std::vector<NamedTensors> units(static_cast<size_t>(llm_->config().num_layers) + 1);
  for (const NamedTensor& parameter : parameters_) {
    if (!with_adapters && is_adapter(parameter.name)) continue;
    units[static_cast<size_t>(llm_->layer_of(parameter.name) + 1)].push_back(parameter);
  }
  return units;
}

uint64_t MotPolicy::weights_version() const {
  uint64_t version = kFnvStart;
  if (sharded()) version = fnv1a64(sharded()->version(), version);
  for (const NamedTensor& parameter : parameters_) {
    version = fnv1a64(static_cast<uint64_t>(parameter.tensor._version()), version);
  }
  return version;
}

at::Tensor MotPolicy::append_text(std::span<Context* const> rows, std::span<const std::vector<int64_t>> ids) {
  const at::NoGradGuard no_grad;
  std::vector<nn::QueryBlock> blocks;
  std::vector<int64_t> flat, positions, slots, last;
  for (size_t i = 0; i < rows.size(); ++i) {
    Context& context = *rows[i];
    nn::QueryBlock block;
    const auto fresh = cache_.extend(context, static_cast<int64_t>(ids[i].size()));
    for (size_t k = 0; k < ids[i].size(); ++k) {
      block.queries.push_back(static_cast<int64_t>(flat.size()));
      flat.push_back(ids[i][k]);
      context.digest.add_token(ids[i][k], context.position,
                               static_cast<int64_t>(context.slots.size() - ids[i].size() + k) + 1);
      positions.push_back(context.position++);
    }
    slots.insert(slots.end(), fresh.begin(), fresh.end());
    block.keys = context.slots;
    blocks.push_back(std::move(block));
    last.push_back(static_cast<int64_t>(flat.size()) - 1);
  }
  const auto num_rows = static_cast<int64_t>(flat.size());
  const auto layout = std::make_shared<nn::AttentionLayout>(blocks, std::vector<int64_t>{}, num_rows, llm_->options());
  PackedTokens tokens{.num_und = num_rows,
                      .position_ids = index_tensor(positions),
                      .layout = layout,
                      .cache_slots = index_tensor(slots)};
  at::Tensor token_ids = index_tensor(flat), last_rows = index_tensor(last);
  const bool one_each = flat.size() == rows.size();
  if (one_each && graphs() && layout->index()) return recorded_logits(token_ids, std::move(tokens), last_rows);
  tokens.send(device(), {&token_ids, &last_rows});
  return next_logits(token_ids, tokens, last_rows);
}

const tensor::MakeGraph& MotPolicy::graphs() const {
  static const tensor::MakeGraph kNone;
  return ranks_ ? kNone : steps_.make();
}

at::Tensor MotPolicy::next_logits(const at::Tensor& ids, const PackedTokens& tokens, const at::Tensor& last_rows) {
  const at::Tensor hidden = llm_->forward(llm_->embed(ids), tokens, &cache_);
  return llm_->logits(hidden.index_select(0, last_rows)).to(at::kFloat);
}

// The keys of all rows grow by one a row and step: they come in a tensor with room for more, whose end nobody reads, so
// that a number of rows is recorded a few times in the length of a text.
at::Tensor MotPolicy::recorded_logits(at::Tensor ids, PackedTokens tokens, at::Tensor last_rows) {
  constexpr uint64_t kFewestKeys = 1024;
  constexpr int64_t kPlainCalls = 3;  // rows retire one by one: a number of them that is soon over is not recorded
  if (recorded_allocations_ != cache_.allocations()) {
    steps_.forget();
    recorded_allocations_ = cache_.allocations();
  }
  kernels::BlockIndex index = *tokens.layout->index();
  const int64_t count = index.keys.size(0);
  const auto room = static_cast<int64_t>(std::bit_ceil(std::max(kFewestKeys, static_cast<uint64_t>(count))));
  const at::Tensor keys = at::zeros({room}, index.keys.options());
  keys.narrow(0, 0, count).copy_(index.keys);
  index.keys = keys;
  std::vector<at::Tensor> inputs = {ids,        tokens.position_ids, tokens.cache_slots,
                                    last_rows,  index.queries,       index.query_start,
                                    index.keys, index.key_start,     index.causal};
  std::vector<at::Tensor*> sent;
  for (at::Tensor& input : inputs) sent.push_back(&input);
  tensor::send_together(sent, device());
  const auto step = [this](const std::vector<at::Tensor>& in) {
    const kernels::BlockIndex blocks{
        .queries = in[4], .query_start = in[5], .keys = in[6], .key_start = in[7], .causal = in[8]};
    const PackedTokens packed{.num_und = in[0].size(0),
                              .position_ids = in[1],
                              .layout = std::make_shared<nn::AttentionLayout>(blocks),
                              .cache_slots = in[2]};
    return next_logits(in[0], packed, in[3]);
  };
  return steps_.of({ids.size(0), room}, step, kPlainCalls)(inputs);
}

}  // namespace unigrpo::policy

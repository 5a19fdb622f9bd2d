#include "train/rank_share.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <utility>

#include "base/enum_names.h"
#include "base/error.h"
#include "kernels/linear.h"
#include "parallel/sharded_model.h"
#include "policy/kv_cache.h"
#include "recipe/tasks.h"
#include "rollout/rules.h"
#include "train/layer_plans.h"

namespace unigrpo::train {
namespace {

using parallel::Shard;

constexpr double kFloat = 4;  // bytes
// Measured on the embedded model, as resident memory: the feature maps of an image's full size and smallest width that
// its decoding holds at once.
constexpr double kDecodedMaps = 12;

/// Elements of a model that ranks may share: in all, of its largest layer, of its last one where weights are shared,
/// and of what belongs to no layer.
struct Elements {
  double all = 0, layer = 0, last = 0, root = 0;
  double weights = 0, gradients = 0, moments = 0;  // that a rank keeps
  double gathered = 0, gathered_root = 0,
         often = 0;  // weights that are shared; gradients that go with each micro-batch
  int64_t layers = 0, recomputed = 0;
};

/// Adds what `holders` ranks have between them.
void add_shared(Elements& sum, double elements, Shard level, double holders, const RankSpread& spread) {
  const bool often = spread.reduces_each(level);
  if (spread.in_pieces) level = std::max(level, Shard::optimizer);
  sum.all += elements;
  sum.weights += level >= Shard::weights ? elements / holders : elements;
  sum.gradients += often ? elements / holders : elements;
  sum.moments += level >= Shard::optimizer ? elements / holders : elements;
  sum.gathered += level >= Shard::weights ? elements : 0;
  sum.often += often ? elements : 0;
}

/// Whether a weight of no layer is used before the first layer, or after the last one; of tied embeddings both.
bool is_of_ends(const StepFacts& facts, const std::string& name, bool first, bool last) {
  const auto& llm = facts.model.llm;
  const bool tied = llm.tie_word_embeddings && name.ends_with("embed_tokens.weight");
  const std::string rest = name.starts_with(llm.prefix) ? name.substr(llm.prefix.size()) : name;
  const bool of_head = rest.starts_with("lm_head.") || rest.starts_with("model.norm") || rest.starts_with("llm2vae.");
  return tied ? first || last : of_head ? last : first;
}

parallel::LayerPlan plan_of(const StepFacts& facts, const RankSpread& spread, int64_t layer) {
  if (!spread.layers.empty()) return spread.layers[static_cast<size_t>(layer)];
  return {.shard = spread.shard, .tp = spread.tp, .sp = spread.sp, .recompute = facts.recipe.policy.recompute};
}

/// Of a stage, as a rank of `tp` has them: the products of a layer and the vocabulary by slices, the rest whole.
Elements elements_of_stage(const StepFacts& facts, const RankSpread& spread, int64_t stage) {
  const std::string layers = facts.model.llm.prefix + "model.layers.";
  const auto block = static_cast<double>(spread.shard_ranks * spread.tp);
  // The vocabulary has slices where all layers have the same.
  const bool alike = std::ranges::all_of(spread.layers, [&](const auto& layer) { return layer.tp == spread.tp; });
  std::map<int64_t, double> by_layer;
  Elements sum;
  for (const NamedTensor& weight : facts.model.shapes) {
    if (weight.name.starts_with("autoencoder.")) continue;
    const auto elements = static_cast<double>(weight.tensor.numel());
    if (!weight.name.starts_with(layers)) {
      if (!is_of_ends(facts, weight.name, stage == 0, stage + 1 == spread.num_stages())) continue;
      const bool of_ids = weight.name.ends_with("embed_tokens.weight") || weight.name.ends_with("lm_head.weight");
      const double tp = alike && of_ids ? static_cast<double>(spread.tp) : 1;
      add_shared(sum, elements / tp, spread.shard, block / tp, spread);
      continue;
    }
    const int64_t layer = std::stoll(weight.name.substr(layers.size()));
    const parallel::LayerPlan plan = plan_of(facts, spread, layer);
    if (plan.stage != stage) continue;
    const double tp = weight.name.find("_proj") != std::string::npos ? static_cast<double>(plan.tp) : 1;
    add_shared(sum, elements / tp, plan.shard, block / tp, spread);
    by_layer[layer] += elements / tp;
  }
  sum.layers = std::ssize(by_layer);
  sum.root = sum.all;
  for (const auto& [layer, elements] : by_layer) {
    const parallel::LayerPlan plan = plan_of(facts, spread, layer);
    sum.recomputed += plan.recompute ? 1 : 0;
    sum.root -= elements;
    sum.layer = std::max(sum.layer, elements);
    sum.last = plan.shard >= Shard::weights ? elements : 0;
  }
  sum.gathered_root = spread.shard >= Shard::weights ? sum.root : 0;
  return sum;
}

/// Of the largest stage.
Elements elements_of(const StepFacts& facts, const RankSpread& spread) {
  Elements most;
  if (!spread.layers.empty() && std::ssize(spread.layers) != facts.model.llm.num_layers) {
    throw BadInput("{}: {} layers; {} has {} (num_hidden_layers)", facts.recipe.parallel.plan, spread.layers.size(),
                   facts.recipe.policy.model, facts.model.llm.num_layers);
  }
  for (int64_t stage = 0; stage < spread.num_stages(); ++stage) {
    const Elements own = elements_of_stage(facts, spread, stage);
    if (own.all > most.all) most = own;
  }
  return most;
}

/// Of all layers, whole.
Elements whole_model(const StepFacts& facts) { return elements_of(facts, {}); }

/// Whether ranks put their slices, and what stages have, together to sample.
bool joins_slices(const recipe::Recipe& recipe, const RankSpread& spread) {
  const bool sliced =
      spread.tp > 1 || std::ranges::any_of(spread.layers, [](const auto& layer) { return layer.tp > 1; });
  return spread.num_stages() > 1 || (sliced && recipe.parallel.rollout == parallel::RolloutWeights::gather);
}

/// Micro-batches of a rank in a step.
double micro_batches(const StepFacts& facts, const RankSpread& spread) {
  const recipe::Recipe& recipe = facts.recipe;
  if (spread.is_exact) return std::ceil(static_cast<double>(recipe.grpo.prompts_per_step) / spread.sets());
  const auto minibatches = static_cast<double>(recipe.grpo.num_minibatches);
  const double tokens = facts.tokens.trained() / spread.pipelines() / minibatches;
  return minibatches * std::ceil(tokens / static_cast<double>(recipe.grpo.micro_batch_tokens));
}

/// Those that run at once (grpo/update.h).
double count_workers(const StepFacts& facts, const RankSpread& spread) {
  const recipe::Recipe& recipe = facts.recipe;
  const bool meets = spread.reduces_each() || spread.tp * spread.sp * spread.num_stages() > 1;
  const bool small = recipe.policy.dtype == policy::DtypeChoice::float32 && !recipe.policy.recompute &&
                     spread.layers.empty() && std::ranges::all_of(facts.model.shapes, [](const NamedTensor& weight) {
                       return weight.name.starts_with("autoencoder.") || kernels::is_narrow(weight.tensor);
                     });
  if (meets || !small) return 1;
  return std::min(static_cast<double>(spread.threads), micro_batches(facts, spread));
}

/// Micro-batches between their forward and their backward on a stage, at most.
double micro_batches_held(const StepFacts& facts, const RankSpread& spread, int64_t stage) {
  const double all = micro_batches(facts, spread) / static_cast<double>(facts.recipe.grpo.num_minibatches);
  if (spread.schedule == parallel::Schedule::gpipe && spread.num_stages() > 1) return all;
  return std::min(all, static_cast<double>(spread.num_stages() - stage));
}

/// What a rank holds of layers a token at most, of however many micro-batches: `kept` numbers of a layer, of one that
/// runs again its `input` alone until then.
double held_a_token(const StepFacts& facts, const RankSpread& spread, double kept, double input) {
  double most = 0;
  for (int64_t stage = 0; stage < spread.num_stages(); ++stage) {
    const Elements elements = elements_of_stage(facts, spread, stage);
    const auto again = static_cast<double>(elements.recomputed), layers = static_cast<double>(elements.layers);
    const double all = (layers - again) * kept + again * input;
    most = std::max(most, all * std::max(1.0, micro_batches_held(facts, spread, stage)) + (again > 0 ? kept : 0));
  }
  return most;
}

/// What the backward pass of the largest micro-batch keeps, in bytes; of all that a stage holds.
double activation_bytes(const StepFacts& facts, const RankSpread& spread) {
  const auto& [recipe, t, llm] = std::tie(facts.recipe, facts.tokens, facts.model.llm);
  const double d = static_cast<double>(llm.hidden_size), kv = static_cast<double>(llm.num_kv_heads * llm.head_dim);
  const double inter = static_cast<double>(llm.intermediate_size);
  // Numbers that a layer keeps a token: its input, norms, q k v before and after rotation, attention, gate, up,
  // products; with LoRA also what a pair hands on within it, and the products once more.
  const double adapters =
      facts.lora ? 7 * static_cast<double>(recipe.policy.lora.rank) + 3 * d + 2 * kv + 2 * inter : 0;
  const double kept = 11 * d + 5 * kv + 4 * inter + adapters;
  const double row = t.row_context + t.trained_image / t.samples;  // of one sample, its prompt among them
  const double prompt = t.prefix / static_cast<double>(recipe.grpo.prompts_per_step);
  const double minibatches = static_cast<double>(recipe.grpo.num_minibatches);
  const double all = (t.prefix + t.samples * (row - prompt)) / minibatches / spread.pipelines();
  const double tokens = std::max(std::min(static_cast<double>(recipe.grpo.micro_batch_tokens), all), row);
  const double logits = tokens * (t.text / t.samples) / row * static_cast<double>(llm.vocab_size);
  const double of_set = tokens * held_a_token(facts, spread, kept, d) + 2 * logits;
  return facts.bytes() * of_set / static_cast<double>(spread.tp * spread.sp);
}

/// What decoding the images of a rollout takes at its most, in bytes.
double decoding_bytes(const StepFacts& facts, const RankSpread& spread) {
  int64_t side = 0;
  for (const recipe::Task& task : recipe::tasks_of(facts.recipe)) {
    if (has_segment(task.rollout, data::SegmentKind::image)) side = std::max(side, task.rollout.image_size);
  }
  if (side == 0) return 0;
  const auto name = [](const NamedTensor& tensor) { return tensor.name.ends_with("decoder.conv_out.weight"); };
  const auto last = std::ranges::find_if(facts.model.shapes, name);  // [3, width, 3, 3]
  const double width = last == facts.model.shapes.end() ? 0 : static_cast<double>(last->tensor.size(1));
  const auto samples = static_cast<int64_t>(std::ceil(facts.tokens.samples / spread.sets()));
  const int64_t together =
      std::min(samples, rollout::images_decoded_together(static_cast<int64_t>(facts.tokens.block) - 2));
  const double pixels = static_cast<double>(side * side);
  return static_cast<double>(together) * pixels * width * kDecodedMaps * kFloat;
}

/// Tokens for whose keys and values the rollout's cache has room.
double cached_tokens(const StepFacts& facts, const RankSpread& spread) {
  const StepTokens& t = facts.tokens;
  constexpr double kBlock = policy::KvCache::kBlockTokens;
  const double prompt = t.prefix / static_cast<double>(facts.recipe.grpo.prompts_per_step);
  const double own = std::ceil((t.row_context - prompt) / kBlock) * kBlock;
  const auto budget = static_cast<double>(facts.recipe.rollout.token_budget);
  double needed = std::max(std::min(budget, (t.prefix + t.samples * own) / spread.sets()), t.row_context);
  if (t.block > 0) {  // of images that are denoised together
    const double together = std::min(std::ceil(t.samples / spread.sets()), std::max(1.0, std::floor(budget / t.block)));
    needed += together * std::ceil(t.block / kBlock) * kBlock;
  }
  return static_cast<double>(policy::KvCache::pool_tokens(static_cast<int64_t>(needed)));
}

double sum_of(const std::vector<Amount>& amounts) {
  double sum = 0;
  for (const Amount& amount : amounts) sum += amount.bytes;
  return sum;
}

std::vector<Amount> without_nothing(std::vector<Amount> amounts) {
  std::erase_if(amounts, [](const Amount& amount) { return amount.bytes == 0; });
  return amounts;
}

/// What goes with each token of an update through the layers, to the ranks that share its sequence, in bytes a rank:
/// heads for attention and back (Ulysses, arXiv 2309.14509), or hidden states around the products
/// (arXiv 2205.05198), which are gathered again in the backward pass rather than kept.
double sent_for_sequences(const StepFacts& facts, const RankSpread& spread) {
  const auto& llm = facts.model.llm;
  const auto tp = static_cast<double>(spread.tp), sp = static_cast<double>(spread.sp);
  const double tokens = facts.tokens.trained() / static_cast<double>(spread.stage_ranks());  // that it holds
  const double again = facts.recipe.policy.recompute ? 1 : 0;
  const double forwards = (facts.reference ? 1 : 0) + 1 + again;
  const double heads = static_cast<double>(2 * llm.num_heads + 2 * std::max(llm.num_kv_heads, spread.sp));
  const double exchanged = tokens * heads * static_cast<double>(llm.head_dim) * (sp - 1) / sp;
  const double gathered = tokens * static_cast<double>(llm.hidden_size) * (tp - 1);
  const auto layers = static_cast<double>(elements_of(facts, spread).layers);
  return layers * facts.bytes() * (exchanged * (forwards + 1) + gathered * (4 * (forwards + 1) + 2));
}

/// Hidden states to the next stage, the reference's too, and gradients to the one before, in bytes a rank between two.
double sent_between_stages(const StepFacts& facts, const RankSpread& spread) {
  const double rows = facts.tokens.trained() / spread.pipelines() / static_cast<double>(spread.tp * spread.sp);
  return rows * static_cast<double>(facts.model.llm.hidden_size) * facts.bytes() * (facts.reference ? 3 : 2);
}

/// The same for images that are being denoised: all ranks have all keys and values of the block.
double sent_for_denoising(const StepFacts& facts, const RankSpread& spread) {
  const auto& llm = facts.model.llm;
  const double others = static_cast<double>(spread.tp * spread.sp - 1);
  const double tokens = facts.tokens.drawn / static_cast<double>(spread.ranks);
  return tokens * others * static_cast<double>(2 * llm.num_layers * llm.num_kv_heads * llm.head_dim) * facts.bytes();
}

}  // namespace

double RankMemory::total() const { return sum_of(held) + std::max(sum_of(sampling), sum_of(learning)); }

parallel::GroupShape group_shape(const recipe::Recipe& recipe) {
  const parallel::ParallelConfig& config = recipe.parallel;
  parallel::GroupShape shape{.tp = config.tp,
                             .sp = config.sp,
                             .shard_ranks = config.shard_ranks,
                             .in_pairs = config.exact_reduction,
                             .reward_ranks = config.reward_ranks,
                             .flexible_sp = config.flexible_sp,
                             .plan_file = config.plan,
                             .rest = config.shard};
  if (!config.plan.empty()) {
    const parallel::LayerPlan otherwise{
        .shard = config.shard, .tp = config.tp, .sp = config.sp, .recompute = recipe.policy.recompute};
    parallel::LayerPlans plans = read_layer_plans(config.plan, otherwise);
    shape.layers = std::move(plans.layers);
    shape.schedule = plans.schedule;
    shape.rest = plans.rest;
    shape.planned_ranks = plans.ranks;
    shape.tp = parallel::most_shared(shape.layers).tp;
    shape.sp = parallel::most_shared(shape.layers).sp;
  }
  const auto shares = [&config](Shard asked) { return parallel::shard_level(config, asked) != Shard::none; };
  const bool any = shares(shape.rest) || std::ranges::any_of(shape.layers, shares, &parallel::LayerPlan::shard);
  if (!any) shape.shard_ranks = 1;
  return shape;
}

RankSpread spread_on_ranks(const recipe::Recipe& recipe, int64_t ranks, int64_t threads) {
  if (ranks == 1) return {.threads = threads, .is_exact = recipe.parallel.exact_reduction};
  const parallel::GroupShape shape = group_shape(recipe);
  parallel::check_shape(shape, ranks);
  const parallel::ParallelConfig& config = recipe.parallel;
  RankSpread spread{.ranks = ranks,
                    .threads = threads,
                    .tp = shape.tp,
                    .sp = shape.sp,
                    .shard_ranks = shape.shard_ranks == 0 ? ranks / shape.stages() / shape.tp : shape.shard_ranks,
                    .layers = shape.layers,
                    .schedule = shape.schedule,
                    .shard = parallel::shard_level(config, shape.rest),
                    .reduce = config.reduce,
                    .is_exact = config.exact_reduction};
  const auto is_cut = [](const parallel::LayerPlan& layer) { return layer.shard != Shard::none || layer.tp > 1; };
  spread.in_pieces = spread.shard != Shard::none || spread.tp > 1 || spread.num_stages() > 1 ||
                     std::ranges::any_of(spread.layers, is_cut);
  return spread;
}

bool RankSpread::reduces_each(Shard level) const {
  return parallel::reduces_each(level, reduce, is_exact ? parallel::Sum::pairwise : parallel::Sum::one_by_one);
}

std::string describe(const RankSpread& spread) {
  std::string text = fmt::format("shard = \"{}\"", enum_name(spread.shard));
  if (spread.shard != Shard::none && spread.shard_ranks * spread.tp != spread.stage_ranks()) {
    text += fmt::format(" over {}", spread.shard_ranks);
  }
  if (spread.tp > 1) text += fmt::format(", tp = {}", spread.tp);
  if (spread.sp > 1) text += fmt::format(", sp = {}", spread.sp);
  if (spread.num_stages() > 1) text += fmt::format(", {} stages", spread.num_stages());
  const auto is_other = [&spread](const parallel::LayerPlan& layer) {
    return layer.shard != spread.shard || layer.tp != spread.tp || layer.sp != spread.sp;
  };
  if (std::ranges::any_of(spread.layers, is_other)) text += ", layers as planned";
  return text;
}

RankMemory memory_of_rank(const StepFacts& facts, const RankSpread& spread) {
  const auto& [recipe, count, llm] = std::tie(facts.recipe, facts.count, facts.model.llm);
  const Elements elements = elements_of(facts, spread);
  const double sliced = elements.all / whole_model(facts).all;
  const double trained = count.total_trained() * sliced, weights = elements.all + count.adapters * sliced;
  const double masters = facts.bf16 ? kFloat : 0, moments = 2 * kFloat;
  const double of_optimizer = elements.all / elements.moments, of_gradients = elements.all / elements.gradients,
               of_weights = elements.all / elements.weights;
  const double copy = facts.reference && !facts.lora ? elements.all * facts.bytes() : 0;  // that is frozen
  const double average = recipe.optim.ema.enabled ? trained * kFloat : 0;
  const double saved = trained * (facts.bytes() + moments + masters) + average;
  const double workers = count_workers(facts, spread);
  RankMemory memory;
  memory.held = {
      {fmt::format("weights ({})", facts.bf16 ? "bf16" : "float32"), weights * facts.bytes() / of_weights},
      {"frozen copy for the penalty", copy / of_weights},
      {facts.bf16 ? "optimizer, float32 masters" : "optimizer", trained * (moments + masters) / of_optimizer},
      {"weights and optimizer before a step",
       recipe.grpo.num_minibatches > 1 ? trained * (moments + facts.bytes() + masters) / of_optimizer : 0},
      {"EMA", average / of_optimizer},
      {kAsyncCopy, recipe.checkpoint.async ? saved / static_cast<double>(spread.stage_ranks()) : 0},
      {"autoencoder (float32)", count.all[kAutoencoder] * kFloat * (copy > 0 ? 2 : 1)},
      {"key/value cache", cached_tokens(facts, spread) *
                              static_cast<double>(2 * llm.num_layers * llm.num_kv_heads * llm.head_dim) *
                              facts.bytes()}};
  const bool gathers = elements.gathered > 0;
  const double sampled_with = joins_slices(recipe, spread) ? whole_model(facts).all + count.adapters
                              : gathers                    ? weights
                                                           : 0;
  memory.sampling = {{"all weights, gathered", sampled_with * facts.bytes()},
                     {"decoding images", decoding_bytes(facts, spread)}};
  memory.learning = {{"gradients (float32)", trained * kFloat * (workers > 1 ? 1 + workers : 1) / of_gradients},
                     // As the backward pass leaves them, in one buffer, and as it goes to the ranks.
                     {"gradients of a layer on their way", of_gradients > 1 ? 3 * elements.layer * kFloat : 0},
                     {"two layers and what is in none, gathered",
                      gathers ? (elements.gathered_root + 2 * elements.layer) * facts.bytes() : 0},
                     {fmt::format("activations{}", elements.recomputed > 0 ? ", recomputed" : ""),
                      workers * activation_bytes(facts, spread)}};
  for (auto* amounts : {&memory.held, &memory.sampling, &memory.learning}) *amounts = without_nothing(*amounts);
  return memory;
}

std::vector<Amount> sent_by_rank(const StepFacts& facts, const RankSpread& spread) {
  if (spread.ranks == 1) return {};
  const Elements elements = elements_of(facts, spread);
  const double sliced = elements.all / whole_model(facts).all;
  const double trained = facts.count.total_trained() * sliced;
  const double updates = static_cast<double>(facts.recipe.grpo.num_minibatches), passes = micro_batches(facts, spread);
  const auto holders = static_cast<double>(spread.shard_ranks), tp = static_cast<double>(spread.tp);
  const double others = (holders - 1) / holders;
  const double blocks = static_cast<double>(spread.stage_ranks() / spread.tp) / holders;
  const bool gathers = elements.gathered > 0;
  const double shared = elements.gathered / elements.all, often = elements.often / elements.all;
  // A sum's shares are exchanged (parallel/comm.h), and where all need it they come back summed.
  std::vector<Amount> sent = {{"gradients (float32)", trained * kFloat *
                                                          ((often * passes + (1 - often) * updates) * others +
                                                           updates * 2 * (blocks - 1) / blocks / holders)},
                              {"weights after a step", (1 - shared) * trained * facts.bytes() * others * updates}};
  if (gathers) {
    // Forward all of them; backward the last layer is there still, and so is what belongs to none.
    const double adapters = facts.count.adapters * sliced * shared;
    const double there_and_back = 2 * (elements.gathered + adapters) - elements.last - elements.gathered_root;
    const double reference = facts.reference ? elements.gathered + (facts.lora ? adapters : 0) : 0;
    sent.push_back({"weights for sampling", (elements.gathered + adapters) * facts.bytes() * others});
    sent.push_back({"weights for learning", passes * (there_and_back + reference) * facts.bytes() * others});
  }
  if (joins_slices(facts.recipe, spread) && spread.tp > 1) {
    const double whole = spread.num_stages() > 1 ? elements.all * tp : whole_model(facts).all;
    sent.push_back({"slices for sampling", (whole - elements.all) * facts.bytes()});
  }
  if (spread.num_stages() > 1) {
    const auto other_stages = static_cast<double>(spread.num_stages() - 1);
    sent.push_back({"weights of stages for sampling", elements.all * tp * other_stages * facts.bytes()});
    sent.push_back({"hidden states between stages", sent_between_stages(facts, spread)});
  }
  if (spread.tp * spread.sp > 1) {
    sent.push_back({"tokens of shared sequences", sent_for_sequences(facts, spread)});
    sent.push_back({"keys and values of images", sent_for_denoising(facts, spread)});
  }
  return without_nothing(sent);
}

}  // namespace unigrpo::train

#include "train/build.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "grpo/rules.h"
#include "grpo/update.h"
#include "monitor/drift_monitor.h"
#include "policy/load.h"
#include "policy/sharded.h"
#include "rollout/rules.h"
#include "scorers/scorer.h"

namespace unigrpo::train {

Policies build_policies(const recipe::Recipe& recipe, const Runtime& runtime) {
  policy::PolicyConfig config = recipe.policy;
  config.text = {.file = recipe.data.text_features, .length = recipe.data.text_length};
  Policies policies{.policy = policy::load(config, runtime), .reference = nullptr};
  const rollout::RolloutConfig rollout = recipe::tasks_of(recipe).front().rollout;
  if (grpo::needs_reference(recipe.grpo, rollout) && recipe.policy.train == policy::TrainMode::full) {
    policy::PolicyConfig frozen = config;
    frozen.freeze = {"*"};
    policies.reference = policy::load(frozen, runtime);
    policy::shard(*policies.reference, recipe.parallel, runtime);
  }
  policy::shard(*policies.policy, recipe.parallel, runtime);
  return policies;
}

reward::Rewarder build_rewarder(const reward::RewardConfig& config, const Runtime& runtime) {
  const auto make = [&](const reward::TermConfig& term) {
    const auto network = enum_value<scorers::ScorerKind>(enum_name(term.kind));
    return network ? scorers::make_scorer(*network, term.network.model) : reward::make_reward(term, runtime.stop);
  };
  return reward::Rewarder(config, make, runtime.stop);
}

rollout::RolloutRequest request_for(std::span<const data::Prompt> prompts, int64_t group_size, int64_t first_place) {
  rollout::RolloutRequest request{
      .prompts = prompts, .keys = {}, .group_size = group_size, .guidance = {}, .teacher_forced_text = {}};
  for (size_t p = 0; p < prompts.size(); ++p) request.keys.push_back(static_cast<uint64_t>(first_place) + p);
  return request;
}

GenerationConfig generation_of(const recipe::Recipe& recipe, const rollout::RolloutConfig& rollout) {
  GenerationConfig config = read_generation_config(recipe.policy.model);
  config.episode = rollout.episode;
  config.image_size = rollout.image_size;
  config.clip = rollout.clip;
  config.num_steps = rollout.num_steps;
  config.timestep_shift = rollout.timestep_shift;
  config.max_tokens = rollout.max_tokens;
  config.temperature = rollout.temperature;
  config.greedy = false;
  draw_from_all(config);
  if (!rollout.system_prompt.empty()) config.system_prompt = rollout.system_prompt;
  config.guidance.text_scale = 1.0;
  return config;
}

GenerationConfig generation_of(const recipe::Recipe& recipe) {
  return generation_of(recipe, recipe::tasks_of(recipe).front().rollout);
}

GenerationConfig sft_generation_of(const recipe::Recipe& recipe) {
  GenerationConfig config = read_generation_config(recipe.policy.model);
  if (!recipe.rollout.system_prompt.empty()) config.system_prompt = recipe.rollout.system_prompt;
  return config;
}

std::string written_generation(const recipe::Recipe& recipe) {
  return to_json(generation_of(recipe), recipe.policy.model);
}

std::optional<std::string> sft_written_generation(const recipe::Recipe& recipe) {
  // It is sampled as it was trained: with this prompt, or with none where its family would have one.
  const GenerationConfig config = sft_generation_of(recipe);
  const bool told = config.prompt_given && recipe.rollout.system_prompt.empty();
  if (told || (config.system_prompt.empty() && default_prompt(recipe.policy.model, config.episode).empty())) {
    return std::nullopt;
  }
  return to_json(config, recipe.policy.model);
}

namespace {

/// What the first step has of all tasks, at most.
struct StepCounts {
  int64_t texts = 0, tokens = 0;           // sampled text tokens, tokens in the update
  std::vector<std::string> images, tasks;  // lines, a task each
};

/// Of an image or a clip while it is denoised; 0 where there is neither.
int64_t block_tokens(const rollout::RolloutConfig& rollout, policy::UnifiedPolicy& policy) {
  if (const auto clip = rollout::clip_of(policy, rollout)) return clip->num_tokens();
  return has_segment(rollout, data::SegmentKind::image) ? policy.grid_for(rollout.image_size).num_tokens() + 2 : 0;
}

StepCounts count_step(const recipe::Recipe& recipe, policy::UnifiedPolicy& policy, std::span<const recipe::Task> tasks,
                      std::span<const int64_t> prefix_tokens) {
  StepCounts counts;
  const std::vector<int64_t> prompts = recipe::prompts_of(tasks, recipe.grpo.prompts_per_step, 0);
  for (size_t t = 0; t < tasks.size(); ++t) {
    const rollout::RolloutConfig& rollout = tasks[t].rollout;
    const int64_t samples = prompts[t] * recipe.grpo.group_size;
    const int64_t block = block_tokens(rollout, policy);
    const int64_t images = std::ssize(rollout.episode) - std::ranges::count(rollout.episode, data::SegmentKind::text);
    const rollout::SampleTokens sample = rollout::count_tokens(rollout, {.block = block, .seen = block});
    counts.texts += samples * sample.sampled;
    counts.tokens += samples * (sample.texts + sample.images + sample.trained) + prompts[t] * prefix_tokens[t];
    if (images > 0) {
      counts.images.push_back(fmt::format("{} / {} {}, {} in all", sample.num_trained_steps, rollout.num_steps,
                                          has_segment(rollout, data::SegmentKind::av) ? "a clip" : "an image",
                                          samples * images * sample.num_trained_steps));
    }
    if (!tasks[t].is_named()) continue;
    counts.tasks.push_back(fmt::format("{}: {} x {} = {}{}", tasks[t].name, prompts[t], recipe.grpo.group_size, samples,
                                       tasks[t].share.points.size() > 1 ? ", by its schedule others later" : ""));
  }
  return counts;
}

}  // namespace

std::string describe_step(const recipe::Recipe& recipe, policy::UnifiedPolicy& policy,
                          std::span<const recipe::Task> tasks, std::span<const int64_t> prefix_tokens) {
  const grpo::GrpoConfig& grpo = recipe.grpo;
  const int64_t samples = grpo.prompts_per_step * grpo.group_size;
  const StepCounts counts = count_step(recipe, policy, tasks, prefix_tokens);
  const int64_t micro =
      std::max<int64_t>(grpo.num_minibatches, (counts.tokens + grpo.micro_batch_tokens - 1) / grpo.micro_batch_tokens);
  int64_t all = 0, trained = 0;
  for (const NamedTensor& parameter : policy.parameters()) {
    all += parameter.tensor.numel();
    if (parameter.tensor.requires_grad()) trained += parameter.tensor.numel();
  }
  std::string text = "one step\n";
  auto line = [&](const char* what, const std::string& value) { text += fmt::format("  {:<34} {}\n", what, value); };
  line("prompts x group = samples", fmt::format("{} x {} = {}", grpo.prompts_per_step, grpo.group_size, samples));
  line("and for the drift monitor", monitor::describe(recipe.monitor.drift, samples));
  for (const std::string& task : counts.tasks) line("task", task);
  if (counts.texts > 0) line("text tokens at most", fmt::format("{}", counts.texts));
  for (const std::string& images : counts.images) line("denoising steps, trained / all", images);
  line("tokens in the update at most", fmt::format("{}", counts.tokens));
  line("micro-batches at most", fmt::format("{} of {} tokens", micro, grpo.micro_batch_tokens));
  line("optimizer steps", fmt::format("{}", grpo.num_minibatches));
  line("parameters, trained / all", fmt::format("{} / {}", trained, all));
  return text;
}

}  // namespace unigrpo::train

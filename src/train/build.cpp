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
  Policies policies{.policy = policy::load(recipe.policy, runtime), .reference = nullptr};
  if (grpo::needs_reference(recipe.grpo) && recipe.policy.train == policy::TrainMode::full) {
    policy::PolicyConfig frozen = recipe.policy;
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

rollout::RolloutRequest request_for(std::span<const data::Prompt> prompts, int64_t group_size) {
  rollout::RolloutRequest request{
      .prompts = prompts, .keys = {}, .group_size = group_size, .guidance = {}, .teacher_forced_text = {}};
  for (size_t p = 0; p < prompts.size(); ++p) request.keys.push_back(p);
  return request;
}

GenerationConfig generation_of(const recipe::Recipe& recipe) {
  GenerationConfig config = read_generation_config(recipe.policy.model);
  config.episode = recipe.rollout.episode;
  config.image_size = recipe.rollout.image_size;
  config.num_steps = recipe.rollout.num_steps;
  config.timestep_shift = recipe.rollout.timestep_shift;
  config.max_tokens = recipe.rollout.max_tokens;
  config.temperature = recipe.rollout.temperature;
  config.greedy = false;
  draw_from_all(config);
  if (!recipe.rollout.system_prompt.empty()) config.system_prompt = recipe.rollout.system_prompt;
  config.guidance.text_scale = 1.0;
  return config;
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

std::string describe_step(const recipe::Recipe& recipe, const policy::UnifiedPolicy& policy, int64_t prefix_tokens) {
  const auto& [grpo, rollout] = std::tie(recipe.grpo, recipe.rollout);
  const int64_t samples = grpo.prompts_per_step * grpo.group_size;
  const bool draws = has_segment(rollout, data::SegmentKind::image);
  const int64_t block = draws ? policy.grid_for(rollout.image_size).num_tokens() + 2 : 0;
  const auto images = std::ranges::count(rollout.episode, data::SegmentKind::image);
  const rollout::SampleTokens sample = rollout::count_tokens(rollout, {.block = block, .seen = block});
  const int64_t most =
      samples * (sample.texts + sample.images + sample.trained) + grpo.prompts_per_step * prefix_tokens;
  const int64_t micro =
      std::max<int64_t>(grpo.num_minibatches, (most + grpo.micro_batch_tokens - 1) / grpo.micro_batch_tokens);
  int64_t all = 0, trained = 0;
  for (const NamedTensor& parameter : policy.parameters()) {
    all += parameter.tensor.numel();
    if (parameter.tensor.requires_grad()) trained += parameter.tensor.numel();
  }
  std::string text = "one step\n";
  auto line = [&](const char* what, const std::string& value) { text += fmt::format("  {:<34} {}\n", what, value); };
  line("prompts x group = samples", fmt::format("{} x {} = {}", grpo.prompts_per_step, grpo.group_size, samples));
  line("and for the drift monitor", monitor::describe(recipe.monitor.drift, samples));
  if (sample.sampled > 0) line("text tokens at most", fmt::format("{}", samples * sample.sampled));
  if (draws)
    line("denoising steps, trained / all", fmt::format("{} / {} an image, {} in all", sample.num_trained_steps,
                                                       rollout.num_steps, samples * images * sample.num_trained_steps));
  line("tokens in the update at most", fmt::format("{}", most));
  line("micro-batches at most", fmt::format("{} of {} tokens", micro, grpo.micro_batch_tokens));
  line("optimizer steps", fmt::format("{}", grpo.num_minibatches));
  line("parameters, trained / all", fmt::format("{} / {}", trained, all));
  return text;
}

}  // namespace unigrpo::train

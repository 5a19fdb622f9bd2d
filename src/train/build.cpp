#include "train/build.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "flow/time_grid.h"
#include "grpo/update.h"
#include "policy/load.h"
#include "scorers/scorer.h"

namespace unigrpo::train {

Policies build_policies(const recipe::Recipe& recipe) {
  const auto seed = static_cast<uint64_t>(recipe.run.seed);
  Policies policies{.policy = policy::load(recipe.policy, seed), .reference = nullptr};
  if (grpo::needs_reference(recipe.grpo) && recipe.policy.train == policy::TrainMode::full) {
    policy::PolicyConfig frozen = recipe.policy;
    frozen.freeze = {"*"};
    policies.reference = policy::load(frozen, seed);
  }
  return policies;
}

reward::Rewarder build_rewarder(const reward::RewardConfig& config) {
  return reward::Rewarder(config, [](const reward::TermConfig& term) {
    const auto network = enum_value<scorers::ScorerKind>(enum_name(term.kind));
    return network ? scorers::make_scorer(*network, term.model) : reward::make_reward(term);
  });
}

NamedTensors trained_parameters(const policy::UnifiedPolicy& policy) {
  NamedTensors trained;
  for (const NamedTensor& parameter : policy.parameters()) {
    if (parameter.tensor.requires_grad()) trained.push_back(parameter);
  }
  return trained;
}

std::string describe_step(const recipe::Recipe& recipe, const policy::UnifiedPolicy& policy, int64_t prefix_tokens) {
  const auto& [grpo, rollout] = std::tie(recipe.grpo, recipe.rollout);
  const int64_t samples = grpo.prompts_per_step * grpo.group_size;
  const auto texts = std::ranges::count(rollout.program, "text"), images = std::ranges::count(rollout.program, "image");
  const int64_t stochastic = flow::num_stochastic_steps(rollout.sde.kind, rollout.num_steps);
  const int64_t steps = rollout.window.mode == flow::WindowMode::all ? stochastic : rollout.window.width;
  const int64_t block = images > 0 ? policy.grid_for(rollout.image_size).num_tokens() + 2 : 0;
  const int64_t row = texts * (rollout.max_tokens + 2) + images * steps * block;
  const int64_t most = samples * row + grpo.prompts_per_step * prefix_tokens;
  const int64_t micro =
      std::max<int64_t>(grpo.num_updates, (most + grpo.micro_batch_tokens - 1) / grpo.micro_batch_tokens);
  int64_t all = 0, trained = 0;
  for (const NamedTensor& parameter : policy.parameters()) {
    all += parameter.tensor.numel();
    if (parameter.tensor.requires_grad()) trained += parameter.tensor.numel();
  }
  std::string text = "one step\n";
  auto line = [&](const char* what, const std::string& value) { text += fmt::format("  {:<34} {}\n", what, value); };
  line("prompts x group = samples", fmt::format("{} x {} = {}", grpo.prompts_per_step, grpo.group_size, samples));
  if (const double looks = recipe.monitor.alarms.samples_a_step(); looks > 0)
    line("and for the alarms", fmt::format("{}", looks));
  line("text tokens at most", fmt::format("{}", samples * texts * rollout.max_tokens));
  line("denoising steps, trained / all",
       fmt::format("{} / {} an image, {} in all", steps, rollout.num_steps, samples * images * steps));
  line("tokens in the update at most", fmt::format("{}", most));
  line("micro-batches at most", fmt::format("{} of {} tokens", micro, grpo.micro_batch_tokens));
  line("optimizer steps", fmt::format("{}", std::min(grpo.num_updates, grpo.prompts_per_step)));
  line("parameters, trained / all", fmt::format("{} / {}", trained, all));
  return text;
}

}  // namespace unigrpo::train

#include "cli/recipe_workload.h"

#include "recipe/parse.h"
#include "recipe/tasks.h"

namespace unigrpo::cli {

namespace {

/// A task's sample as the update sees it, in tokens; of the rollout what a sample has of each kind.
int64_t add_sample(const rollout::RolloutConfig& rollout, planner::RolloutShape& out) {
  const int64_t side = std::max<int64_t>(1, rollout.image_size / 16);
  const int64_t states = rollout.window.mode == flow::WindowMode::all ? rollout.num_steps : rollout.window.width;
  int64_t tokens = 0;
  for (const data::SegmentKind kind : rollout.episode) {
    const bool text = kind == data::SegmentKind::text;
    tokens += text ? rollout.max_tokens : side * side * states;
    if (text) out.text_tokens += rollout.max_tokens;
    if (!text) out.image_tokens = side * side, out.denoise_steps += rollout.num_steps;
  }
  return tokens;
}

}  // namespace

Workload recipe_workload(const std::string& file, const std::vector<std::string>& overrides) {
  constexpr size_t kMostChanges = 16;
  const recipe::Recipe recipe = recipe::parse(file, overrides, recipe::Command::check);
  const int64_t prompts = recipe.grpo.prompts_per_step, group_size = recipe.grpo.group_size;
  Workload out;
  out.model = recipe.policy.model;
  out.sample.half = recipe.policy.dtype == policy::DtypeChoice::bfloat16;
  out.minibatches = recipe.grpo.num_minibatches;
  const std::vector<recipe::Task> tasks = recipe::tasks_of(recipe);
  for (const int64_t step : recipe::changes_of(tasks, prompts, recipe.run.num_steps, kMostChanges)) {
    const std::vector<int64_t> counts = recipe::prompts_of(tasks, prompts, step);
    Workload::Rollout& rollout = out.rollouts.emplace_back();
    rollout.step = step;
    int64_t tokens = 0;
    for (size_t t = 0; t < tasks.size(); ++t) {
      planner::RolloutShape shape{.task = tasks[t].name, .samples = counts[t] * group_size, .prompts = counts[t]};
      shape.minibatches = out.minibatches;
      shape.half = out.sample.half;
      tokens += counts[t] * add_sample(tasks[t].rollout, shape);
      if (counts[t] > 0) rollout.tasks.push_back(std::move(shape));
    }
    if (step == 0) out.sample.tokens += (tokens + prompts - 1) / prompts;
  }
  out.batch = std::max<int64_t>(1, prompts * group_size / recipe.grpo.num_minibatches);
  if (recipe.policy.train == policy::TrainMode::lora) out.lora_rank = recipe.policy.lora.rank;
  return out;
}

double trainable_share(const Workload& workload, const planner::ModelShape& shape) {
  if (workload.lora_rank == 0) return 1;
  const auto real = [](int64_t value) { return static_cast<double>(value); };
  const double hidden = real(shape.hidden), kv = hidden * real(shape.kv_heads) / real(shape.heads);
  const double wide = real(shape.intermediate);
  const double sums = 2 * (2 * hidden) + 2 * (hidden + kv) + 3 * (hidden + wide);
  const double products = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * wide;
  return std::min(1.0, real(workload.lora_rank) * sums / products);
}

}  // namespace unigrpo::cli

#include "cli/recipe_workload.h"

#include "recipe/parse.h"

namespace unigrpo::cli {

Workload recipe_workload(const std::string& file, const std::vector<std::string>& overrides) {
  const recipe::Recipe recipe = recipe::parse(file, overrides, recipe::Command::check);
  Workload out;
  out.model = recipe.policy.model;
  out.sample.half = recipe.policy.dtype == policy::DtypeChoice::bfloat16;
  const int64_t side = std::max<int64_t>(1, recipe.rollout.image_size / 16);
  const int64_t states =
      recipe.rollout.window.mode == flow::WindowMode::all ? recipe.rollout.num_steps : recipe.rollout.window.width;
  out.rollout.half = out.sample.half;
  out.rollout.samples = recipe.grpo.prompts_per_step * recipe.grpo.group_size;
  for (const data::SegmentKind kind : recipe.rollout.episode) {
    const bool text = kind == data::SegmentKind::text;
    out.sample.tokens += text ? recipe.rollout.max_tokens : side * side * states;
    if (text) out.rollout.text_tokens += recipe.rollout.max_tokens;
    if (!text) out.rollout.image_tokens = side * side, out.rollout.denoise_steps += recipe.rollout.num_steps;
  }
  out.rollout.prompts = recipe.grpo.prompts_per_step;
  out.rollout.minibatches = recipe.grpo.num_minibatches;
  out.batch = std::max<int64_t>(1, recipe.grpo.prompts_per_step * recipe.grpo.group_size / recipe.grpo.num_minibatches);
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

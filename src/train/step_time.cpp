#include "train/step_time.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "data/prompt_file.h"
#include "grpo/update.h"
#include "policy/sharded.h"
#include "recipe/tasks.h"
#include "runtime/runtime.h"
#include "train/build.h"

namespace unigrpo::train {
namespace {

using recipe::Recipe;

constexpr double kMostFlops = 2e11;  // of a trial: a few seconds on one core
constexpr double kMostSeconds = 2;   // beyond which a trial is not repeated
constexpr int64_t kBlockRows = 256;  // tokens of a forward that is not decoding
constexpr double kProductSeconds = 0.2;

std::string on_threads() {
  const int threads = at::get_num_threads();
  return fmt::format("{} thread{}", threads, threads == 1 ? "" : "s");
}

/// FLOPs a second of [rows, width] x [width, inner_width].
double speed(int64_t rows, const StepWork& work) {
  const at::NoGradGuard no_grad;
  const auto options = at::TensorOptions(work.bf16 ? at::kBFloat16 : at::kFloat);
  const at::Tensor tokens = at::full({rows, work.width}, 0.5, options);
  const at::Tensor weight = at::full({work.inner_width, work.width}, 0.5, options);
  at::linear(tokens, weight);  // the first one sets up
  double products = 0;
  const Stopwatch watch;
  do {
    at::linear(tokens, weight);
    ++products;
  } while (watch.seconds() < kProductSeconds);
  return products * 2.0 * static_cast<double>(rows * work.width * work.inner_width) / watch.seconds();
}

/// Rewards that differ within every group, so that nothing leaves the update.
grpo::Advantages made_up_advantages(const Recipe& recipe, std::span<const rollout::Trajectory> trajectories) {
  reward::ScoreTable scores;
  scores.terms = {"trial"};
  scores.weights = {1.0};
  std::vector<int64_t> groups;
  std::vector<std::string> prompts;
  for (const auto& trajectory : trajectories) {
    groups.push_back(trajectory.prompt_index);
    prompts.push_back(std::to_string(trajectory.prompt_index));
    reward::Score score;
    score.value = static_cast<double>(scores.scores.size() % 2);
    scores.scores.push_back({score});
  }
  return grpo::compute_advantages(recipe.grpo.advantage, scores, groups, recipe.reward.on_error, {}, prompts);
}

StepTime trial(const Recipe& recipe, const StepWork& work, const Recipe& small) {
  const Runtime runtime{.seed = static_cast<uint64_t>(recipe.run.seed), .threads = recipe.run.threads};
  const recipe::Task task = recipe::tasks_of(small).front();
  const auto prompts = data::spread_over(data::read_prompt_file(task.prompts), small.grpo.prompts_per_step);
  const Policies policies = build_policies(small, runtime);
  rollout::RolloutEngine engine(*policies.policy, task.rollout, runtime, generation_of(small).system_prompt);
  NamedTensors trained = policy::trained_parameters(*policies.policy);
  optim::AdamW optimizer(small.optim, trained);
  optim::GradClip clip(small.optim);
  const grpo::UpdateSetup setup{.policy = *policies.policy,
                                .reference = policies.reference.get(),
                                .optimizer = optimizer,
                                .clip = clip,
                                .config = small.grpo,
                                .rollout = task.rollout};
  StepTime time;
  for (int round = 0; round < 2; ++round) {  // the first one also takes memory and sets up
    const rollout::RolloutRequest request = request_for(prompts, small.grpo.group_size);
    Stopwatch watch;
    const auto trajectories = engine.rollout(request);
    time.rollout = watch.restart();
    grpo::update(setup, trajectories, made_up_advantages(small, trajectories), 0.0);
    time.update = watch.seconds();
    if (time.rollout + time.update > kMostSeconds) break;
  }
  const double share = static_cast<double>(recipe.grpo.prompts_per_step) / static_cast<double>(prompts.size());
  const auto samples = static_cast<double>(prompts.size()) * static_cast<double>(recipe.grpo.group_size);
  time.drift = time.rollout / samples * work.drift_samples;
  time.rollout *= share;
  time.update *= share;
  time.how =
      fmt::format("going by {} of its {} prompts on {}", prompts.size(), recipe.grpo.prompts_per_step, on_threads());
  return time;
}

}  // namespace

StepTime step_time(const Recipe& recipe, const StepWork& work) {
  const int64_t prompts = recipe.grpo.prompts_per_step,
                in_trial = std::clamp<int64_t>(at::get_num_threads(), 1, prompts);
  const double share = static_cast<double>(in_trial) / static_cast<double>(prompts);
  if ((work.decode_flops + work.other_flops + work.update_flops) * share <= kMostFlops) {
    Recipe small = recipe;
    small.grpo.prompts_per_step = in_trial;
    small.grpo.num_minibatches = 1;
    small.optim.ema.enabled = false;
    return trial(recipe, work, small);
  }
  const double decode = work.decode_flops / speed(recipe.grpo.group_size, work), block = speed(kBlockRows, work);
  StepTime least{.rollout = decode + work.other_flops / block, .update = work.update_flops / block};
  const auto samples = static_cast<double>(prompts * recipe.grpo.group_size);
  least.drift = least.rollout / samples * work.drift_samples;
  least.how = fmt::format("at least, going by matrix products of the model's shape on {}", on_threads());
  return least;
}

}  // namespace unigrpo::train

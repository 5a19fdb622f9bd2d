#include "train/task_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/fault.h"
#include "base/log.h"
#include "data/prompt_file.h"
#include "grpo/advantages.h"
#include "rollout/rules.h"
#include "runtime/ranks.h"
#include "train/build.h"
#include "train/out_of_memory.h"
#include "train/step_hook.h"

namespace unigrpo::train {
namespace {

using Trajectories = std::span<const rollout::Trajectory>;

std::vector<int64_t> group_ids(Trajectories trajectories) {
  std::vector<int64_t> ids;
  for (const auto& trajectory : trajectories) ids.push_back(trajectory.prompt_index);
  return ids;
}

std::vector<std::string> prompt_ids(Trajectories trajectories) {
  std::vector<std::string> ids;
  for (const auto& trajectory : trajectories) {
    const std::string& id = trajectory.sample.id;  // <prompt id>/<sample index>
    ids.push_back(id.substr(0, id.rfind('/')));
  }
  return ids;
}

/// Which samples have a text that is penalized for being truncated; empty: the recipe penalizes none.
std::vector<bool> penalized(const grpo::TextLossConfig& config, Trajectories trajectories) {
  std::vector<bool> samples;
  if (config.truncated != grpo::Truncated::penalize) return samples;
  for (const auto& trajectory : trajectories) {
    samples.push_back(std::ranges::any_of(trajectory.texts, [](const auto& text) { return !text.finished; }));
  }
  return samples;
}

std::string statistics_name(const recipe::Task& task) {
  return task.is_named() ? "reward_statistics_" + task.name : "reward_statistics";
}

}  // namespace

std::vector<monitor::Failure> failures_in(const Step& step, Trajectories trajectories,
                                          const reward::ScoreTable& table) {
  std::vector<monitor::Failure> failures;
  for (size_t i = 0; i < trajectories.size(); ++i) {
    for (size_t k = 0; k < table.terms.size(); ++k) {
      const reward::Score& score = table.scores[i][k];
      if (score.value || !score.asked) continue;
      failures.push_back({.step = step.number(),
                          .reward = table.terms[k],
                          .sample = trajectories[i].sample.id,
                          .prompt = trajectories[i].sample.prompt,
                          .reason = score.reason});
    }
  }
  return failures;
}

void tell_failures(const Step& step, const std::vector<monitor::Failure>& failures, const RunContext& run) {
  if (failures.empty() || !is_root(run.runtime)) return;
  const std::filesystem::path file = run.folder.failures_file(step.number());
  monitor::write_failures(file, failures);
  run.monitor.note(fmt::format("{} scores are missing; the first: reward '{}', sample {}: {} (all in {})",
                               failures.size(), failures.front().reward, failures.front().sample,
                               failures.front().reason, file.string()));
}

std::vector<data::Prompt> read_prompts(const recipe::Recipe& recipe, const recipe::Task& task) {
  return recipe::told_of(recipe, task, "prompts", [&] { return data::read_prompt_file(task.prompts); });
}

TaskRun::TaskRun(const recipe::Recipe& recipe, recipe::Task task, std::vector<data::Prompt> prompts,
                 reward::Rewarder rewarder, policy::UnifiedPolicy& policy, const Runtime& runtime, Drawn& drawn,
                 double& seconds)
    : recipe_(recipe),
      task_(std::move(task)),
      runtime_(runtime),
      drawn_(drawn),
      rollout_seconds_(seconds),
      sampler_(std::move(prompts), runtime.seed, recipe.grpo.prompts_per_step),
      rewarder_(std::move(rewarder)),
      generation_(generation_of(recipe, task_.rollout)),
      engine_(policy, task_.rollout, runtime, generation_.system_prompt),
      statistics_(statistics_name(task_)) {
  rewarder_.check_prompts(sampler_.prompts(), task_.prompts);
  recipe::told_of(recipe, task_, "episode", [&] {
    for (const data::Prompt& prompt : sampler_.prompts()) engine_.check_length(prompt);
    rollout::clip_of(policy, task_.rollout);
    if (has_segment(task_.rollout, data::SegmentKind::image)) policy.grid_for(task_.rollout.image_size);
  });
}

std::optional<TaskBatch> TaskRun::sample(const Step& step, const TaskPlace& where, const RunContext& run) {
  run.enter(step.number(), "rollout");
  fault::point("rollout.begin");
  const std::vector<data::Prompt> prompts = sampler_.range(where.first_prompt, where.count);
  std::optional<Batch> drawn = draw_groups(step, prompts, 0, where, run, [&] {
    fault::point("rollout.end");
    run.enter(step.number(), "reward");
    fault::point("reward.begin");
  });
  if (!drawn) return std::nullopt;
  TaskBatch batch{.trajectories = std::move(drawn->trajectories), .step = {}};
  batch.step.name = task_.name;
  batch.step.scores = std::move(drawn->scores);
  fault::point("advantage");
  batch.step.advantages = advantages_of(batch);
  const bool resamples = recipe_.grpo.advantage.zero_std == grpo::ZeroStd::resample;
  if (resamples && !resample(step, where, run, batch)) return std::nullopt;
  return batch;
}

/// Rewards judge the groups as they come. Where reward.on_error = stop ends the run, what failed is on disk before.
/// Empty where a stop came.
std::optional<Batch> TaskRun::draw_groups(const Step& step, std::span<const data::Prompt> prompts, int64_t first_sample,
                                          const TaskPlace& where, const RunContext& run,
                                          std::function<void()> on_sampled) {
  DrawRequest request{.rollout = request_for(prompts, recipe_.grpo.group_size, where.place),
                      .on_sampled = std::move(on_sampled)};
  request.keeps_groups = recipe_.parallel.exact_reduction;
  request.reward_ranks = recipe_.parallel.reward_ranks;
  if (first_sample == 0) {  // groups that replace others are dealt by themselves
    request.first_group = where.place;
    request.num_groups = recipe_.grpo.prompts_per_step;
  }
  request.rollout.guidance.text_scale = task_.rollout.rollout_cfg_scale;
  request.rollout.first_sample = first_sample;
  request.rollout.step = static_cast<uint64_t>(step.index) + 1;
  std::optional<Batch> batch = within_memory("rollout", "rollout.token_budget", task_.rollout.token_budget,
                                             [&] { return draw(engine_, rewarder_, runtime_, std::move(request)); });
  if (!batch) return std::nullopt;
  rollout_seconds_ += batch->rollout_seconds;
  drawn_.count(batch->trajectories);
  if (batch->missing) {
    tell_failures(step, failures_in(step, batch->trajectories, batch->scores), run);
    std::rethrow_exception(batch->missing);
  }
  return batch;
}

grpo::Advantages TaskRun::advantages_of(const TaskBatch& batch) const {
  return grpo::compute_advantages(
      recipe_.grpo.advantage, batch.step.scores, group_ids(batch.trajectories), recipe_.reward.on_error,
      task_.reward.terms, prompt_ids(batch.trajectories), statistics_, penalized(recipe_.grpo.text, batch.trajectories),
      has_segment(task_.rollout, data::SegmentKind::av) ? std::optional(recipe_.grpo.av.advantage) : std::nullopt);
}

/// Groups without spread are replaced by those of other prompts, from further down the prompt order (DAPO's dynamic
/// sampling, arXiv 2503.14476); what still has none after max_resamples draws leaves the batch. False: a stop came.
bool TaskRun::resample(const Step& step, const TaskPlace& where, const RunContext& run, TaskBatch& batch) {
  constexpr int64_t kFarAway = int64_t{1} << 40;  // steps that no run reaches
  const int64_t draws = recipe_.grpo.advantage.max_resamples, group_size = recipe_.grpo.group_size;
  TaskStep& own = batch.step;
  for (int64_t draw = 0; draw < draws && !own.advantages.zero_std_group_ids.empty(); ++draw) {
    const int64_t first = (kFarAway + step.index * draws + draw) * recipe_.grpo.prompts_per_step;
    const auto& empty_groups = own.advantages.zero_std_group_ids;
    const std::vector<data::Prompt> spare = sampler_.range(first, std::ssize(empty_groups));
    const int64_t first_sample = (draw + 1) * group_size;
    auto fresh_groups = draw_groups(step, spare, first_sample, where, run, {});
    if (!fresh_groups) return false;
    for (size_t i = 0; i < fresh_groups->trajectories.size(); ++i) {
      rollout::Trajectory& fresh = fresh_groups->trajectories[i];
      const int64_t group = empty_groups[fresh.prompt_index];
      const auto slot = static_cast<size_t>(group * group_size + fresh.sample_index - first_sample);
      fresh.prompt_index = group;
      fresh.sample.group = group;
      batch.trajectories[slot] = std::move(fresh);
      own.scores.scores[slot] = std::move(fresh_groups->scores.scores[i]);
    }
    own.advantages = advantages_of(batch);
  }
  return true;
}

}  // namespace unigrpo::train

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/prompt_sampler.h"
#include "grpo/running_statistics.h"
#include "monitor/failures_file.h"
#include "policy/policy.h"
#include "recipe/tasks.h"
#include "reward/rewarder.h"
#include "rollout/engine.h"
#include "train/draw.h"
#include "train/objective.h"
#include "train/step_metrics.h"

namespace unigrpo::train {

/// The prompts of a task's file. Throws BadInput, which names the task where it has a name.
std::vector<data::Prompt> read_prompts(const recipe::Recipe& recipe, const recipe::Task& task);

/// What of a step is a task's.
struct TaskPlace {
  int64_t first_prompt = 0;  // in the task's own endless order of prompts
  int64_t count = 0;         // of prompts
  int64_t place = 0;         // of its first group among the step's
};

/// A task's samples, whose groups are counted from 0.
struct TaskBatch {
  std::vector<rollout::Trajectory> trajectories;
  TaskStep step;
};

/// One task of a run: its prompts, how they are sampled and judged, and what its rewards were. Tasks share nothing but
/// the weights.
class TaskRun {
 public:
  /// What it draws is counted in `drawn`, and its seconds in `seconds`; the references outlive it. Throws BadInput
  /// where the model or the rewards cannot do the task.
  TaskRun(const recipe::Recipe& recipe, recipe::Task task, std::vector<data::Prompt> prompts, reward::Rewarder rewarder,
          policy::UnifiedPolicy& policy, const Runtime& runtime, Drawn& drawn, double& seconds);

  const recipe::Task& task() const { return task_; }
  const std::vector<data::Prompt>& prompts() const { return sampler_.prompts(); }
  rollout::RolloutEngine& engine() { return engine_; }
  const GenerationConfig& generation() const { return generation_; }
  grpo::RunningStatistics& statistics() { return statistics_; }

  /// Samples, judges and weighs its groups of a step. Empty: a stop came, and nothing has changed.
  std::optional<TaskBatch> sample(const Step& step, const TaskPlace& where, const RunContext& run);

 private:
  std::optional<Batch> draw_groups(const Step& step, std::span<const data::Prompt> prompts, int64_t first_sample,
                                   const TaskPlace& where, const RunContext& run, std::function<void()> on_sampled);
  grpo::Advantages advantages_of(const TaskBatch& batch) const;
  bool resample(const Step& step, const TaskPlace& where, const RunContext& run, TaskBatch& batch);

  const recipe::Recipe& recipe_;
  const recipe::Task task_;
  const Runtime& runtime_;
  Drawn& drawn_;
  double& rollout_seconds_;
  data::PromptSampler sampler_;
  reward::Rewarder rewarder_;
  GenerationConfig generation_;
  rollout::RolloutEngine engine_;
  grpo::RunningStatistics statistics_;  // as they stand after the last finished step
};

/// The scores that terms did not give.
std::vector<monitor::Failure> failures_in(const Step& step, std::span<const rollout::Trajectory> trajectories,
                                          const reward::ScoreTable& table);
/// A line in the step's file of failures for each, and a note with the first.
void tell_failures(const Step& step, const std::vector<monitor::Failure>& failures, const RunContext& run);

}  // namespace unigrpo::train

#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "data/prompt.h"
#include "grpo/advantages.h"
#include "optim/adamw.h"
#include "optim/grad_clip.h"
#include "parallel/sharded_model.h"
#include "policy/policy.h"
#include "recipe/parse.h"
#include "reward/score.h"
#include "rollout/engine.h"
#include "runtime/stateful.h"
#include "train/generation_config.h"

namespace unigrpo::train {

struct RunContext;  // step_hook.h

/// What one task has in a step: whole groups that stand together.
struct TaskStep {
  std::string name;             // empty: the recipe has no [[tasks]]
  size_t task = 0;              // of the objective's
  size_t first = 0;             // of its samples in Step::trajectories
  reward::ScoreTable scores;    // [its samples, its rewards]
  grpo::Advantages advantages;  // of its samples alone

  size_t num_samples() const { return scores.scores.size(); }
};

/// One step under way: filled by the objective, read and added to by the hooks.
struct Step {
  int64_t index = 0;                            // from 0: the key of its random streams and its place in the data
  int64_t number() const { return index + 1; }  // as everybody sees it: steps done, once it is
  Stopwatch watch = {};
  std::map<std::string, double> metrics = {};
  // Of an objective that samples; empty for others.
  std::vector<rollout::Trajectory> trajectories = {};
  std::vector<TaskStep> tasks = {};  // in the order of the samples; those without a prompt in the step are left out
  grpo::Advantages advantages = {};  // of all samples

  /// Whose sample i is.
  const TaskStep& task_of(size_t i) const { return *(std::ranges::upper_bound(tasks, i, {}, &TaskStep::first) - 1); }
};

/// What a run samples with, for one task of it.
struct Sampled {
  std::span<const data::Prompt> prompts;
  rollout::RolloutEngine* engine;
};

/// What takes gradients to new weights.
struct Optimization {
  optim::AdamW& optimizer;
  optim::GradClip& clip;
  double lr_factor = 1;  // from the schedule
};

/// What a run optimises. The trainer owns everything around it: the loop, optimizer, EMA, checkpoints, hooks, signals.
class Objective {
 public:
  virtual ~Objective() = default;

  /// The parameters that move, under their official names.
  virtual NamedTensors parameters() const = 0;
  /// What a step is, in numbers, as the table that a run starts with; empty: nothing to tell.
  virtual std::string describe() const { return {}; }
  /// Draws what the step learns from. False: a stop was asked for, and the step is dropped; nothing has changed.
  virtual bool sample(Step& step, const RunContext& run) = 0;
  /// Gradients and one or more optimizer steps. False: a stop was asked for, which is seen before each micro-batch, and
  /// the step is dropped. Optimizer steps that it had taken are taken back by the trainer.
  virtual bool update(Step& step, const Optimization& optimization, const RunContext& run) = 0;
  /// What a checkpoint keeps beside weights and optimizer.
  virtual std::vector<Stateful*> stateful() { return {}; }

  /// The model behind it; null where there is none that could be sampled.
  virtual policy::UnifiedPolicy* policy() { return nullptr; }
  /// What its weights are spread over ranks by; null: they are not.
  parallel::ShardedModel* sharded() { return policy() ? policy()->sharded() : nullptr; }
  /// After pieces of the weights were written: what is whole of them is no longer right.
  void wrote_weights() {
    if (sharded()) sharded()->wrote();
  }
  /// What its steps sample with and for, task by task; empty where they do not.
  virtual std::vector<Sampled> sampled() { return {}; }
  /// How the model is sampled where it is evaluated; the first task's, where there are several.
  virtual const GenerationConfig& generation() const = 0;
  /// The same for the task of that name.
  virtual const GenerationConfig& task_generation(const std::string& /*task*/) const { return generation(); }

  /// Where the trained model goes at the end of a run whose folder is `run_dir`.
  virtual std::filesystem::path output(const std::filesystem::path& run_dir) const = 0;
  /// Writes the weights as they stand as a model folder. `step`: steps done.
  virtual void write_model(const std::filesystem::path& destination, int64_t step) = 0;
};

/// The one of a command's recipe.
std::unique_ptr<Objective> make_objective(const recipe::Recipe& recipe, recipe::Command command,
                                          const Runtime& runtime);

}  // namespace unigrpo::train

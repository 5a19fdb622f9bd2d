#pragma once

#include <optional>
#include <span>
#include <string>

#include "monitor/monitor.h"
#include "monitor/run_folder.h"
#include "optim/ema.h"
#include "policy/sharded.h"
#include "recipe/recipe.h"
#include "runtime/ranks.h"
#include "train/objective.h"

namespace unigrpo::train {

struct Evaluation;

/// What hooks see of a run; all of it outlives them.
struct RunContext {
  const recipe::Recipe& recipe;
  const Runtime& runtime;
  const monitor::RunFolder& folder;
  monitor::Monitor& monitor;
  Objective& objective;
  const NamedTensors& trained;
  const optim::Ema& ema;
  std::span<const Evaluation> evaluations;

  /// What is being worked on from here on: shown, and named where a rank is lost.
  void enter(int64_t step, const std::string& phase) const {
    monitor.phase(phase);
    unigrpo::enter(runtime, step, phase);
  }
};

/// Something that happens around steps and changes no weights. Hooks run in the order in which make_hooks() lists them.
class StepHook {
 public:
  virtual ~StepHook() = default;
  /// Before the run's first step; what it adds to `metrics` stands in the row of step 0.
  virtual void before_training(std::map<std::string, double>& /*metrics*/) {}
  /// The step is drawn and will be finished; the weights are still those it was drawn with. False: a stop was asked
  /// for, and the step is dropped; nothing has changed. Where the update is dropped after it, the hook's state is what
  /// it was before this call.
  virtual bool before_update(Step& /*step*/) { return true; }
  /// The weights have moved; what it adds to the step's metrics stands in its row. False: a stop came before it was
  /// done. The row then waits until the run goes on, and all hooks are called again for the step, of which only the
  /// metrics are left.
  virtual bool after_update(Step& /*step*/) { return true; }
  /// After the last step, not after an interruption.
  virtual void after_run(int64_t /*steps_done*/) {}
  /// Asked after each step: why the run should end here, once its state is saved.
  virtual std::optional<std::string> stop_reason() const { return std::nullopt; }
  /// What a checkpoint keeps of it.
  virtual Stateful* stateful() { return nullptr; }
};

/// The weights' averages in place of the weights while it lives, where the recipe has EMA on.
std::optional<optim::EmaScope> averaged(const RunContext& run);

/// While it lives, the root has what a model is written from: the averages, where the recipe has EMA on, and all of
/// them. All ranks make and drop it alike.
class ShownWeights {
 public:
  explicit ShownWeights(const RunContext& run);

 private:
  std::optional<optim::EmaScope> averages_;
  policy::Gathered whole_;
};

/// Drift monitor, silence watch, sample writer, evaluation, keep-best: in this order.
std::vector<std::unique_ptr<StepHook>> make_hooks(const RunContext& run);

}  // namespace unigrpo::train

#pragma once

#include <optional>
#include <string>

#include "monitor/monitor.h"
#include "monitor/run_folder.h"
#include "optim/ema.h"
#include "recipe/recipe.h"
#include "runtime/runtime.h"
#include "train/objective.h"

namespace unigrpo::train {

/// What hooks see of a run; all of it outlives them.
struct RunContext {
  const recipe::Recipe& recipe;
  const Runtime& runtime;
  const monitor::RunFolder& folder;
  monitor::Monitor& monitor;
  Objective& objective;
  const NamedTensors& trained;
  const optim::Ema& ema;
};

/// Something that happens around steps and changes no weights. Hooks run in the order in which make_hooks() lists them.
class StepHook {
 public:
  virtual ~StepHook() = default;
  /// Before the first step of this process, with `steps_done` behind it.
  virtual void before_run(int64_t /*steps_done*/) {}
  virtual void before_step(Step& /*step*/) {}
  /// The step is drawn and will be finished; the weights are still those it was drawn with.
  virtual void before_update(Step& /*step*/) {}
  virtual void after_step(const Step& /*step*/) {}
  /// After the last step, not after an interruption.
  virtual void after_run(int64_t /*steps_done*/) {}
  /// Asked after each step: why the run should end here, once its state is saved.
  virtual std::optional<std::string> stop_reason() const { return std::nullopt; }
  /// What a checkpoint keeps of it.
  virtual Stateful* stateful() { return nullptr; }
};

/// The weights' averages in place of the weights while it lives, where the recipe has EMA on.
std::optional<optim::EmaScope> averaged(const RunContext& run);

/// Evaluation, keep-best, drift monitor, sample writer: in this order.
std::vector<std::unique_ptr<StepHook>> make_hooks(const RunContext& run);

}  // namespace unigrpo::train

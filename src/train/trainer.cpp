#include "train/trainer.h"

#include <fmt/format.h>

#include "optim/schedule.h"
#include "runtime/ranks.h"
#include "train/evaluator.h"
#include "train/inputs.h"
#include "train/out_of_memory.h"
#include "train/rank_meter.h"
#include "train/ranks_file.h"
#include "train/resume.h"
#include "train/run_files.h"
#include "train/run_state.h"
#include "train/state_bytes.h"
#include "train/step_hook.h"

namespace unigrpo::train {
namespace {

using recipe::Recipe;

/// What a run is made from.
struct Parts {
  recipe::Command command;
  bool resume;
  const monitor::Launch& launch;
  const Inputs& inputs;
  Objective& objective;
  std::span<const Evaluation> evaluations;
};

/// The run's moving parts and where it stands.
class Trainer {
 public:
  Trainer(const Recipe& recipe, const Runtime& runtime, const Parts& parts)
      : recipe_(recipe),
        runtime_(runtime),
        parts_(parts),
        objective_(parts.objective),
        trained_(objective_.parameters()),
        optimizer_(recipe.optim, trained_),
        clip_(recipe.optim),
        ema_(recipe.optim.ema, trained_),
        weights_(trained_, [this] { objective_.wrote_weights(); }),
        schedule_(recipe.optim, recipe.run.num_steps),
        inputs_(parts.inputs, recipe.run_dir()),
        meter_(runtime, state_bytes(objective_, trained_, optimizer_, ema_)),
        files_(recipe, runtime, parts.resume),
        hooks_(make_hooks(context())),
        steps_done_(parts.resume ? files_.restore(components()) : 0),
        monitor_({.run_dir = files_.folder().path(),
                  .config = recipe.monitor,
                  .num_steps = recipe.run.num_steps,
                  .last_row = parts.resume ? std::optional(open_row_.last_row(steps_done_)) : std::nullopt,
                  .log = is_root(runtime) ? "log.txt" : fmt::format("logs/rank_{}.txt", runtime.mesh.rank),
                  .writes = is_root(runtime)}) {
    together(runtime, "run folder", [&] { begin_folder(); });
  }

  ExitCode run() {
    if (const auto table = objective_.describe(); !table.empty()) monitor_.note(table);
    if (steps_done_ == 0 && !before_training()) return interrupted();
    if (!open_row_.values.empty()) {
      Step step{.index = steps_done_ - 1, .metrics = open_row_.values};
      if (!finish_step(step)) return interrupted();
    }
    while (steps_done_ < recipe_.run.num_steps) {
      if (stop_asked(runtime_)) return interrupted();
      files_.poll(steps_done_);
      meter_.begin();
      Step step{.index = steps_done_};
      if (!completed([&] { return objective_.sample(step, context()); })) return interrupted();
      const StateBefore before(moved_by_updates());
      for (const auto& hook : hooks_) {
        if (!completed([&] { return hook->before_update(step); })) return interrupted();
      }
      if (!completed([&] { return update(step); })) {
        before.restore();
        return interrupted();
      }
      ++steps_done_;
      if (!finish_step(step)) return interrupted();
      for (const auto& hook : hooks_) {
        if (const auto reason = hook->stop_reason()) stop(*reason);
      }
      if (files_.is_due(steps_done_)) save(WaitFor::copy);
    }
    save(WaitFor::commit);
    const bool finished = completed([&] {
      for (const auto& hook : hooks_) hook->after_run(steps_done_);
      if (stop_asked(runtime_)) return false;
      const ShownWeights shown(context());
      on_root(runtime_, steps_done_, "final model", [&] { finish(); });
      return true;
    });
    return finished ? ExitCode::done : interrupted();
  }

 private:
  /// What the folder says of this process, and what it no longer does.
  void begin_folder() {
    if (!is_root(runtime_)) return;
    const monitor::RunFolder& folder = files_.folder();
    write_ranks_file(folder.path(), runtime_, objective_.sharded());
    const std::string other_build = record_launch(folder, recipe_, parts_.launch, parts_.inputs, steps_done_);
    if (!parts_.resume) return;
    monitor_.note(fmt::format("resumed at step {}", steps_done_));
    if (!other_build.empty()) monitor_.note("warning: the run was made by another build: " + other_build);
    if (steps_done_ >= recipe_.run.num_steps) return;
    drop_old_end(folder, objective_.output(folder.path()), recipe_);
    if (const auto told = schedule_.describe_change(steps_done_); !told.empty()) monitor_.note("warning: " + told);
  }

  RunContext context() {
    return {.recipe = recipe_,
            .runtime = runtime_,
            .folder = files_.folder(),
            .monitor = monitor_,
            .objective = objective_,
            .trained = trained_,
            .ema = ema_,
            .evaluations = parts_.evaluations};
  }

  /// All that a checkpoint keeps.
  std::vector<Stateful*> components() {
    std::vector<Stateful*> all = {&weights_, &optimizer_, &clip_, &schedule_, &inputs_, &open_row_};
    if (recipe_.optim.ema.enabled) all.push_back(&ema_);
    for (Stateful* component : objective_.stateful()) all.push_back(component);
    for (const auto& hook : hooks_) {
      if (Stateful* component = hook->stateful()) all.push_back(component);
    }
    return all;
  }

  /// The row of step 0. False: a stop came meanwhile.
  bool before_training() {
    Metrics metrics;
    const bool measured = completed([&] {
      for (const auto& hook : hooks_) hook->before_training(metrics);
      return !stop_asked(runtime_);
    });
    if (measured && !metrics.empty()) monitor_.record({.step = 0, .values = metrics});
    return measured;
  }

  /// The row of a step whose update is done. False: a stop came meanwhile, and the row is kept open.
  bool finish_step(Step& step) {
    for (const auto& hook : hooks_) {
      if (completed([&] { return hook->after_update(step); })) continue;
      open_row_.values = from_root(runtime_, step.metrics, "open row");  // of ranks, whose clocks differ, one row
      return false;
    }
    open_row_.values.clear();
    monitor_.record({.step = step.number(), .values = step.metrics});
    return true;
  }

  /// What an update that is not finished may have changed: the hooks have seen its step, and with several mini-batches
  /// the first ones have moved the weights.
  std::vector<Stateful*> moved_by_updates() {
    std::vector<Stateful*> moved;
    if (recipe_.grpo.num_minibatches > 1) moved = {&weights_, &optimizer_, &clip_};
    for (const auto& hook : hooks_) {
      if (Stateful* component = hook->stateful()) moved.push_back(component);
    }
    return moved;
  }

  /// False: a stop came, and the step is dropped.
  bool update(Step& step) {
    context().enter(step.number(), "update");
    Stopwatch watch;
    const double lr_factor = schedule_.factor(step.index);
    const int64_t before = optimizer_.num_steps();
    const Optimization optimization{.optimizer = optimizer_, .clip = clip_, .lr_factor = lr_factor};
    const bool done = within_memory("update", "grpo.micro_batch_tokens", recipe_.grpo.micro_batch_tokens,
                                    [&] { return objective_.update(step, optimization, context()); });
    if (!done) return false;
    // Not where all gradients were bad, or there were none.
    if (recipe_.optim.ema.enabled && optimizer_.num_steps() > before) ema_.update(optimizer_.masters());
    step.metrics["time/update"] = watch.seconds();
    step.metrics["time/step"] = step.watch.seconds();
    step.metrics["optim/lr"] = recipe_.optim.lr * lr_factor;
    meter_.measure(step.watch.seconds(), step.metrics);
    return true;
  }

  void save(WaitFor until) {
    monitor_.phase("save");
    files_.save(steps_done_, components(), until);
  }

  ExitCode interrupted() {
    save(WaitFor::commit);
    monitor_.note(
        fmt::format("{}: stopped after step {}; --resume goes on from here", runtime_.stop.signal(), steps_done_));
    monitor_.finish();
    return ExitCode::interrupted;
  }

  [[noreturn]] void stop(const std::string& reason) {
    save(WaitFor::commit);
    monitor_.finish();
    throw RuntimeFailure("{}; --resume goes on from step {}", reason, steps_done_);
  }

  void finish() {
    const auto folder = files_.folder().path(), output = objective_.output(folder);
    if (!std::filesystem::exists(output) || std::filesystem::is_empty(output)) {
      inputs_.require_same_model(recipe_.policy.model, runtime_);
      objective_.write_model(output, steps_done_);
    }
    monitor_.finish();
    if (recipe_.monitor.report) monitor::write_report(folder);
    monitor_.note(fmt::format("all {} steps are done, the model is {}; {} --set run.num_steps=N goes on to more",
                              steps_done_, output.string(), resume_command(folder, parts_.command)));
  }

  const Recipe& recipe_;
  const Runtime& runtime_;
  const Parts parts_;
  Objective& objective_;
  NamedTensors trained_;
  optim::AdamW optimizer_;
  optim::GradClip clip_;
  optim::Ema ema_;
  Weights weights_;
  optim::RunSchedule schedule_;
  InputDigests inputs_;
  OpenRow open_row_;
  RankMeter meter_;
  RunFiles files_;
  std::vector<std::unique_ptr<StepHook>> hooks_;  // they refer to the monitor, and use it once the run begins
  int64_t steps_done_;
  monitor::Monitor monitor_;
};

}  // namespace

ExitCode run_training(const Recipe& recipe, recipe::Command command, const Runtime& runtime, bool resume,
                      const monitor::Launch& launch) {
  Inputs inputs;
  std::vector<Evaluation> evaluations;
  std::unique_ptr<Objective> objective;
  together(runtime, "inputs", [&] {
    inputs = read_inputs(recipe, runtime);
    if (resume) require_same_run(recipe, command, inputs);
    if (command == recipe::Command::sft) check_output(recipe.sft.output, recipe.run_dir(), resume);
    evaluations = make_evaluations(recipe, runtime);
    objective = make_objective(recipe, command, runtime);
    if (objective->parameters().empty()) throw BadInput("policy.freeze: the patterns leave nothing to train");
  });
  if (stop_asked(runtime)) return ExitCode::interrupted;  // while it loaded: nothing is there to be saved
  return Trainer(recipe, runtime, {command, resume, launch, inputs, *objective, evaluations}).run();
}

}  // namespace unigrpo::train

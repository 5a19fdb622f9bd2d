#include "train/trainer.h"

#include <fmt/format.h>

#include "base/signals.h"
#include "checkpoint/save.h"
#include "checkpoint/stateful.h"
#include "io/atomic_file.h"
#include "optim/schedule.h"
#include "train/evaluator.h"
#include "train/grpo_objective.h"
#include "train/inputs.h"
#include "train/out_of_memory.h"
#include "train/resume.h"
#include "train/run_state.h"
#include "train/sft_objective.h"
#include "train/step_hook.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
using recipe::Recipe;

std::unique_ptr<Objective> make_objective(const Recipe& recipe, recipe::Command command, const Runtime& runtime) {
  if (command != recipe::Command::sft) return make_grpo_objective(recipe, runtime);
  return recipe.sft.stage == recipe::SftStage::autoencoder ? make_autoencoder_objective(recipe, runtime)
                                                           : make_sft_objective(recipe, runtime);
}

/// What a run is made from.
struct Parts {
  recipe::Command command;
  bool resume;
  const monitor::Launch& launch;
  const Inputs& inputs;
  Objective& objective;
  Evaluator* evaluator;
};

/// The run's moving parts and where it stands.
class Trainer {
 public:
  Trainer(const Recipe& recipe, const Runtime& runtime, const Parts& parts)
      : recipe_(recipe),
        runtime_(runtime),
        command_(parts.command),
        objective_(&parts.objective),
        evaluator_(parts.evaluator),
        trained_(objective_->parameters()),
        optimizer_(recipe.optim, trained_),
        clip_(recipe.optim),
        ema_(recipe.optim.ema, trained_),
        weights_(trained_),
        schedule_(recipe.optim, recipe.run.num_steps),
        inputs_(parts.inputs, recipe.run_dir()),
        folder_(monitor::RunFolder::open(recipe_.run_dir(), parts.resume)),
        store_(folder_.checkpoints(), recipe.checkpoint, runtime_),
        hooks_(make_hooks(context())),
        steps_done_(parts.resume ? restore() : 0),
        monitor_({.run_dir = folder_.path(),
                  .config = recipe.monitor,
                  .num_steps = recipe.run.num_steps,
                  .last_row = parts.resume ? std::optional(last_row()) : std::nullopt}) {
    io::write_file_atomic(folder_.recipe_file(), recipe::to_toml(recipe_));
    const std::string other_build = record_launch(folder_, parts.launch, parts.inputs, steps_done_);
    if (!parts.resume) return;
    if (steps_done_ < recipe.run.num_steps) drop_old_end(folder_, objective_->output(folder_.path()));
    monitor_.note(fmt::format("resumed at step {}", steps_done_));
    if (!other_build.empty()) monitor_.note("warning: the run was made by another build: " + other_build);
    const std::string change = schedule_.describe_change(steps_done_);
    if (!change.empty() && steps_done_ < recipe.run.num_steps) monitor_.note("warning: " + change);
  }

  ExitCode run() {
    if (const std::string table = objective_->describe(); !table.empty()) monitor_.note(table);
    if (steps_done_ == 0 && !before_training()) return interrupted();
    if (!open_row_.values.empty()) {
      Step step{.index = steps_done_ - 1, .metrics = open_row_.values};
      if (!finish_step(step)) return interrupted();
    }
    while (steps_done_ < recipe_.run.num_steps) {
      if (runtime_.stop.requested()) return interrupted();
      Step step{.index = steps_done_};
      const auto sample = [&] { return objective_->sample(step, context()); };
      const bool sampled = completed(
          [&] { return within_memory("rollout", "rollout.token_budget", recipe_.rollout.token_budget, sample); });
      if (!sampled) return interrupted();
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
        if (const auto reason = hook->stop_reason()) return stop(*reason);
      }
      const int64_t every = recipe_.checkpoint.every;
      if (every > 0 && steps_done_ % every == 0 && steps_done_ < recipe_.run.num_steps) save();
    }
    save();
    const bool finished = completed([&] {
      for (const auto& hook : hooks_) hook->after_run(steps_done_);
      if (runtime_.stop.requested()) return false;
      finish();
      return true;
    });
    return finished ? ExitCode::done : interrupted();
  }

 private:
  /// Whether work was done: false where it says that a stop came, or was ended by one in the middle of a pass.
  template <typename Work>
  static bool completed(const Work& work) {
    try {
      return work();
    } catch (const Interrupted&) {
      return false;
    }
  }

  /// Steps behind the newest sound checkpoint, whose state everything has then.
  int64_t restore() {
    const auto loaded = store_.newest();
    if (!loaded) return 0;
    checkpoint::restore(components(), *loaded);
    return loaded->step;
  }

  /// The last row of metrics that stands: an open one is written again, and of step 0 all begins anew.
  int64_t last_row() const {
    if (steps_done_ == 0) return -1;
    return open_row_.values.empty() ? steps_done_ : steps_done_ - 1;
  }

  RunContext context() {
    return {.recipe = recipe_,
            .runtime = runtime_,
            .folder = folder_,
            .monitor = monitor_,
            .objective = *objective_,
            .trained = trained_,
            .ema = ema_,
            .evaluator = evaluator_};
  }

  /// All that a checkpoint keeps.
  std::vector<Stateful*> components() {
    std::vector<Stateful*> all = {&weights_, &optimizer_, &clip_, &schedule_, &inputs_, &open_row_};
    if (recipe_.optim.ema.enabled) all.push_back(&ema_);
    for (Stateful* component : objective_->stateful()) all.push_back(component);
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
      return !runtime_.stop.requested();
    });
    if (!measured) return false;
    if (!metrics.empty()) monitor_.record({.step = 0, .values = metrics});
    return true;
  }

  /// The row of a step whose update is done. False: a stop came meanwhile, and the row is kept open.
  bool finish_step(Step& step) {
    for (const auto& hook : hooks_) {
      if (completed([&] { return hook->after_update(step); })) continue;
      open_row_.values = step.metrics;
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
    monitor_.phase("update");
    Stopwatch watch;
    const double lr_factor = schedule_.factor(step.index);
    const int64_t steps_before = optimizer_.num_steps();
    const Optimization optimization{.optimizer = optimizer_, .clip = clip_, .lr_factor = lr_factor};
    const bool done = within_memory("update", "grpo.micro_batch_tokens", recipe_.grpo.micro_batch_tokens,
                                    [&] { return objective_->update(step, optimization, context()); });
    if (!done) return false;
    const bool moved = optimizer_.num_steps() > steps_before;  // not where all gradients were bad, or there were none
    if (recipe_.optim.ema.enabled && moved) ema_.update(optimizer_.masters());
    step.metrics["time/update"] = watch.seconds();
    step.metrics["time/step"] = step.watch.seconds();
    step.metrics["optim/lr"] = recipe_.optim.lr * lr_factor;
    step.metrics["memory/peak_bytes"] = peak_bytes(runtime_.device);
    return true;
  }

  void save() {
    monitor_.phase("save");
    store_.save(checkpoint::take_snapshot(steps_done_, recipe::to_toml(recipe_), components()));
  }

  ExitCode interrupted() {
    save();
    monitor_.note(
        fmt::format("{}: stopped after step {}; --resume goes on from here", runtime_.stop.signal(), steps_done_));
    monitor_.finish();
    return ExitCode::interrupted;
  }

  [[noreturn]] ExitCode stop(const std::string& reason) {
    save();
    monitor_.finish();
    throw RuntimeFailure("{}; --resume goes on from step {}", reason, steps_done_);
  }

  void finish() {
    const fs::path output = objective_->output(folder_.path());
    if (!fs::exists(output) || fs::is_empty(output)) {
      inputs_.require_same_model(recipe_.policy.model, runtime_);
      const auto scope = averaged(context());
      objective_->write_model(output, steps_done_);
    }
    monitor_.finish();
    if (recipe_.monitor.report) monitor::write_report(folder_.path());
    monitor_.note(fmt::format("all {} steps are done, the model is {}; {} --set run.num_steps=N goes on to more",
                              steps_done_, output.string(), resume_command(folder_.path(), command_)));
  }

  const Recipe& recipe_;
  const Runtime& runtime_;
  const recipe::Command command_;
  Objective* const objective_;
  Evaluator* const evaluator_;
  NamedTensors trained_;
  optim::AdamW optimizer_;
  optim::GradClip clip_;
  optim::Ema ema_;
  Weights weights_;
  optim::RunSchedule schedule_;
  InputDigests inputs_;
  OpenRow open_row_;
  monitor::RunFolder folder_;
  checkpoint::CheckpointStore store_;
  std::vector<std::unique_ptr<StepHook>> hooks_;  // they refer to the monitor, and use it once the run begins
  int64_t steps_done_;
  monitor::Monitor monitor_;
};

}  // namespace

ExitCode run_training(const Recipe& recipe, recipe::Command command, const Runtime& runtime, bool resume,
                      const monitor::Launch& launch) {
  const Inputs inputs = read_inputs(recipe, runtime);
  if (resume) require_same_run(recipe, command, inputs);
  if (command == recipe::Command::sft) check_output(recipe.sft.output, recipe.run_dir(), resume);
  const auto evaluator = make_evaluator(recipe, runtime);
  const auto objective = make_objective(recipe, command, runtime);
  if (runtime.stop.requested()) return ExitCode::interrupted;  // while it loaded: nothing is there to be saved
  if (objective->parameters().empty()) throw BadInput("policy.freeze: the patterns leave nothing to train");
  return Trainer(recipe, runtime, {command, resume, launch, inputs, *objective, evaluator.get()}).run();
}

}  // namespace unigrpo::train

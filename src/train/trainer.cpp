#include "train/trainer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "checkpoint/save.h"
#include "checkpoint/stateful.h"
#include "io/atomic_file.h"
#include "optim/schedule.h"
#include "train/evaluator.h"
#include "train/grpo_objective.h"
#include "train/resume.h"
#include "train/sft_objective.h"
#include "train/step_hook.h"
#include "train/step_metrics.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
using recipe::Recipe;

std::unique_ptr<Objective> make_objective(const Recipe& recipe, recipe::Command command, const Runtime& runtime) {
  if (!recipe.eval.prompts.empty()) check_eval_prompts(recipe.eval.prompts, eval_rewards(recipe.eval));
  if (command != recipe::Command::sft) return make_grpo_objective(recipe, runtime);
  return recipe.sft.stage == recipe::SftStage::autoencoder ? make_autoencoder_objective(recipe, runtime)
                                                           : make_sft_objective(recipe, runtime);
}

/// The trained parameters as a part of checkpoints.
class Weights : public Stateful {
 public:
  explicit Weights(const NamedTensors& parameters) : parameters_(parameters) {}
  std::string name() const override { return "policy"; }
  State state() const override { return {.tensors = parameters_}; }
  void load_state(const State& state, const std::string& where) override {
    const at::NoGradGuard no_grad;
    optim::assign(parameters_, state.tensors, where);
  }

 private:
  const NamedTensors& parameters_;
};

/// The run's moving parts and where it stands.
class Trainer {
 public:
  Trainer(const Recipe& recipe, recipe::Command command, const Runtime& runtime, bool resume, Objective& objective)
      : recipe_(recipe),
        runtime_(runtime),
        objective_(&objective),
        trained_(objective_->parameters()),
        optimizer_(recipe.optim, trained_),
        clip_(recipe.optim),
        ema_(recipe.optim.ema, trained_),
        weights_(trained_),
        folder_(open_folder(command, resume)),
        store_(folder_.checkpoints(), recipe.checkpoint, runtime_),
        hooks_(make_hooks(context())),
        steps_done_(resume ? restore() : 0),
        monitor_({.run_dir = folder_.path(),
                  .config = recipe.monitor,
                  .num_steps = recipe.run.num_steps,
                  .resume_step = resume ? steps_done_ : -1}) {
    if (resume && steps_done_ < recipe.run.num_steps) drop_old_end(folder_, objective_->output(folder_.path()));
    if (resume) monitor_.note(fmt::format("resumed at step {}", steps_done_));
  }

  ExitCode run() {
    if (const std::string table = objective_->describe(); !table.empty()) monitor_.note(table);
    for (const auto& hook : hooks_) hook->before_run(steps_done_);
    while (steps_done_ < recipe_.run.num_steps) {
      if (runtime_.stop.requested()) return interrupted();
      Step step{.index = steps_done_};
      for (const auto& hook : hooks_) hook->before_step(step);
      step.watch.restart();
      if (runtime_.stop.requested() || !objective_->sample(step, context())) return interrupted();
      for (const auto& hook : hooks_) hook->before_update(step);
      update(step);
      ++steps_done_;
      monitor_.record({.step = step.index, .values = step.metrics});
      for (const auto& hook : hooks_) hook->after_step(step);
      for (const auto& hook : hooks_) {
        if (const auto reason = hook->stop_reason()) return stop(*reason);
      }
      const int64_t every = recipe_.checkpoint.every;
      if (every > 0 && steps_done_ % every == 0 && steps_done_ < recipe_.run.num_steps) save();
    }
    save();
    for (const auto& hook : hooks_) hook->after_run(steps_done_);
    if (runtime_.stop.requested()) return interrupted();
    return finish();
  }

 private:
  monitor::RunFolder open_folder(recipe::Command command, bool resume) const {
    if (resume) require_same_recipe(recipe_, fs::path(recipe_.run_dir()) / "recipe.toml", command);
    if (command == recipe::Command::sft) check_output(recipe_.sft.output, recipe_.run_dir(), resume);
    monitor::RunFolder folder = monitor::RunFolder::open(recipe_.run_dir(), resume);
    io::write_file_atomic(folder.recipe_file(), recipe::to_toml(recipe_));
    return folder;
  }

  /// Steps behind the newest sound checkpoint, whose state everything has then.
  int64_t restore() {
    const auto loaded = store_.newest();
    if (!loaded) return 0;
    checkpoint::restore(components(), *loaded);
    return loaded->step;
  }

  RunContext context() {
    return {.recipe = recipe_,
            .runtime = runtime_,
            .folder = folder_,
            .monitor = monitor_,
            .objective = *objective_,
            .trained = trained_,
            .ema = ema_};
  }

  /// All that a checkpoint keeps.
  std::vector<Stateful*> components() {
    std::vector<Stateful*> all = {&weights_, &optimizer_, &clip_};
    if (recipe_.optim.ema.enabled) all.push_back(&ema_);
    for (Stateful* component : objective_->stateful()) all.push_back(component);
    for (const auto& hook : hooks_) {
      if (Stateful* component = hook->stateful()) all.push_back(component);
    }
    return all;
  }

  void update(Step& step) {
    monitor_.phase("update");
    Stopwatch watch;
    const double lr_factor = optim::lr_factor(recipe_.optim, step.index, recipe_.run.num_steps);
    const int64_t steps_before = optimizer_.num_steps();
    objective_->update(step, {.optimizer = optimizer_, .clip = clip_, .lr_factor = lr_factor}, context());
    const bool moved = optimizer_.num_steps() > steps_before;  // not where all gradients were bad, or there were none
    if (recipe_.optim.ema.enabled && moved) ema_.update(optimizer_.masters());
    step.metrics["time/update"] = watch.seconds();
    step.metrics["time/step"] = step.watch.seconds();
    step.metrics["optim/lr"] = recipe_.optim.lr * lr_factor;
    step.metrics["memory/peak_bytes"] = peak_bytes();
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

  ExitCode finish() {
    const fs::path output = objective_->output(folder_.path());
    if (!fs::exists(output) || fs::is_empty(output)) {
      const auto scope = averaged(context());
      objective_->write_model(output, steps_done_);
    }
    monitor_.finish();
    if (recipe_.monitor.report) monitor::write_report(folder_.path());
    return ExitCode::done;
  }

  const Recipe& recipe_;
  const Runtime& runtime_;
  Objective* const objective_;
  NamedTensors trained_;
  optim::AdamW optimizer_;
  optim::GradClip clip_;
  optim::Ema ema_;
  Weights weights_;
  monitor::RunFolder folder_;
  checkpoint::CheckpointStore store_;
  std::vector<std::unique_ptr<StepHook>> hooks_;  // they refer to the monitor, and use it once the run begins
  int64_t steps_done_;
  monitor::Monitor monitor_;
};

}  // namespace

ExitCode run_training(const Recipe& recipe, recipe::Command command, const Runtime& runtime, bool resume) {
  const auto objective = make_objective(recipe, command, runtime);
  if (runtime.stop.requested()) return ExitCode::interrupted;  // while it loaded: nothing is there to be saved
  if (objective->parameters().empty()) throw BadInput("policy.freeze: the patterns leave nothing to train");
  return Trainer(recipe, command, runtime, resume, *objective).run();
}

}  // namespace unigrpo::train

#include "train/grpo_objective.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "checkpoint/export_model.h"
#include "grpo/update.h"
#include "policy/sharded.h"
#include "recipe/tasks.h"
#include "rollout/rules.h"
#include "runtime/ranks.h"
#include "train/build.h"
#include "train/flexible_sp.h"
#include "train/regrouped.h"
#include "train/step_hook.h"
#include "train/step_metrics.h"
#include "train/task_run.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
using recipe::Recipe;
using Trajectories = std::span<const rollout::Trajectory>;

std::vector<reward::Rewarder> build_rewarders(std::span<const recipe::Task> tasks, const Runtime& runtime) {
  std::vector<reward::Rewarder> rewarders;
  for (const recipe::Task& task : tasks) rewarders.push_back(build_rewarder(task.reward, runtime));
  return rewarders;
}

/// Where each task's prompts stand, step by step, in its own order of prompts: behind those of all steps before.
class PromptPlaces {
 public:
  PromptPlaces(std::span<const recipe::Task> tasks, int64_t prompts_per_step)
      : tasks_(tasks), prompts_(prompts_per_step), drawn_(tasks.size()) {}

  /// A function of the step alone; steps that rise cost nothing.
  std::vector<TaskPlace> at(int64_t step) {
    if (step < next_) next_ = 0, drawn_.assign(drawn_.size(), 0);
    for (; next_ < step; ++next_) {
      const std::vector<int64_t> counts = recipe::prompts_of(tasks_, prompts_, next_);
      for (size_t t = 0; t < counts.size(); ++t) drawn_[t] += counts[t];
    }
    std::vector<TaskPlace> places;
    int64_t place = 0;
    for (const int64_t count : recipe::prompts_of(tasks_, prompts_, step)) {
      places.push_back({.first_prompt = drawn_[places.size()], .count = count, .place = place});
      place += count;
    }
    return places;
  }

 private:
  const std::span<const recipe::Task> tasks_;
  const int64_t prompts_;
  int64_t next_ = 0;            // the step before which `drawn_` prompts of each task were drawn
  std::vector<int64_t> drawn_;  // [tasks]
};

/// Puts a task's groups behind those that the step has.
void append(TaskBatch batch, size_t task, const TaskPlace& where, Step& step) {
  batch.step.task = task;
  batch.step.first = step.trajectories.size();
  for (rollout::Trajectory& trajectory : batch.trajectories) {
    trajectory.prompt_index += where.place;
    trajectory.sample.group += where.place;
    trajectory.task = static_cast<int64_t>(task);
    step.trajectories.push_back(std::move(trajectory));
  }
  grpo::append(batch.step.advantages, where.place, step.advantages);
  step.tasks.push_back(std::move(batch.step));
}

void tell_noise(const Recipe& recipe, bool clips, const grpo::LogProbNoise& noise, monitor::Monitor& monitor) {
  const auto& [text, image, video, audio] =
      std::tie(recipe.grpo.text, recipe.grpo.image, recipe.grpo.video, recipe.grpo.audio);
  const std::string told = clips ? fmt::format("video {:.1e} (clip {}), audio {:.1e} (clip {})", noise.video,
                                               video.clip_range, noise.audio, audio.clip_range)
                                 : fmt::format("text {:.1e} (clip {} / {}), image {:.1e} (clip {})", noise.text,
                                               text.clip_low, text.clip_high, noise.image, image.clip_range);
  monitor.note("log-prob noise between rollout and update: " + told);
  const auto warn = [&](double range, double floor, const char* key) {
    if (range >= floor) return;
    monitor.note(
        fmt::format("warning: {} = {} is below the measured noise {:.1e}: clipping acts on noise", key, range, floor));
  };
  if (clips) {
    if (video.weight > 0) warn(video.clip_range, noise.video, "grpo.video.clip_range");
    if (audio.weight > 0) warn(audio.clip_range, noise.audio, "grpo.audio.clip_range");
    return;
  }
  if (text.weight > 0) warn(text.clip_low, noise.text, "grpo.text.clip_low");
  if (image.weight > 0) warn(image.clip_range, noise.image, "grpo.image.clip_range");
}

class GrpoObjective : public Objective {
 public:
  GrpoObjective(const Recipe& recipe, const Runtime& runtime)
      : recipe_(recipe),
        runtime_(runtime),
        tasks_(recipe::tasks_of(recipe)),
        rollout_(recipe::joint_rollout(tasks_)),
        places_(tasks_, recipe.grpo.prompts_per_step) {
    std::vector<std::vector<data::Prompt>> prompts;
    for (const recipe::Task& task : tasks_) prompts.push_back(read_prompts(recipe, task));
    auto rewarders = build_rewarders(tasks_, runtime);
    policies_ = build_policies(recipe, runtime);
    if (recipe.parallel.flexible_sp && runtime.comm) flexible_sp_.emplace(recipe, runtime, policies_);
    for (size_t t = 0; t < tasks_.size(); ++t) {
      runs_.push_back(std::make_unique<TaskRun>(recipe, tasks_[t], std::move(prompts[t]), std::move(rewarders[t]),
                                                *policies_.policy, runtime, drawn_, rollout_seconds_));
    }
    if (const auto told = told_left_out(runs_.front()->generation(), policies_.policy->eos_id()); !told.empty())
      log::warn(told);
  }

  NamedTensors parameters() const override { return policy::trained_parameters(*policies_.policy); }
  policy::UnifiedPolicy* policy() override { return policies_.policy.get(); }
  std::vector<Sampled> sampled() override {
    std::vector<Sampled> all;
    for (const auto& run : runs_) all.push_back({run->prompts(), &run->engine()});
    return all;
  }
  const GenerationConfig& generation() const override { return runs_.front()->generation(); }
  const GenerationConfig& task_generation(const std::string& name) const override {
    const auto found = std::ranges::find(runs_, name, [](const auto& run) { return run->task().name; });
    return found == runs_.end() ? generation() : (*found)->generation();
  }
  std::vector<Stateful*> stateful() override {
    std::vector<Stateful*> all;
    for (const auto& run : runs_) all.push_back(&run->statistics());
    return all;
  }

  std::string describe() const override {
    std::vector<int64_t> prefix_tokens;
    for (const auto& run : runs_)
      prefix_tokens.push_back(policy::num_tokens(run->engine().prefix(run->prompts().front())));
    return describe_step(recipe_, *policies_.policy, tasks_, prefix_tokens);
  }

  bool sample(Step& step, const RunContext& run) override {
    Stopwatch phase;
    drawn_ = {};
    rollout_seconds_ = 0;
    const std::vector<TaskPlace> places = places_.at(step.index);
    for (size_t t = 0; t < runs_.size(); ++t) {
      if (places[t].count == 0) continue;
      std::optional<TaskBatch> batch = runs_[t]->sample(step, places[t], run);
      if (!batch) return false;
      append(*std::move(batch), t, places[t], step);
    }
    std::vector<monitor::Failure> failures;
    for (const TaskStep& task : step.tasks) {
      const Trajectories own = Trajectories(step.trajectories).subspan(task.first, task.num_samples());
      std::ranges::move(failures_in(step, own, task.scores), std::back_inserter(failures));
    }
    tell_failures(step, failures, run);
    for (const TaskStep& task : step.tasks) refuse_too_many_dropped(step, task);
    text_metrics(step.trajectories, "", step.metrics);
    reward_metrics(step.tasks, "", step.metrics);
    task_metrics(step, recipe_.grpo.group_size, step.metrics);
    clip_metrics(step.advantages, step.metrics);
    drawn_.rates("throughput/rollout_", rollout_seconds_, step.metrics);
    step.metrics["time/rollout"] = rollout_seconds_;
    step.metrics["time/reward"] = phase.seconds() - rollout_seconds_;
    return true;
  }

  bool update(Step& step, const Optimization& optimization, const RunContext& run) override {
    if (stop_asked(runtime_)) return false;
    Regrouped regrouped(step.trajectories);
    if (flexible_sp_) {
      flexible_sp_->regroup(step.advantages.keep, policies_.policy->weights_version(), regrouped, step.metrics);
    }
    share_with_stages(runtime_, policies_.policy->weights_version(), regrouped);
    const grpo::UpdateSetup setup{.policy = *policies_.policy,
                                  .reference = policies_.reference.get(),
                                  .optimizer = optimization.optimizer,
                                  .clip = optimization.clip,
                                  .config = recipe_.grpo,
                                  .rollout = rollout_,
                                  .runtime = runtime_,
                                  .plan = flexible_sp_ ? &regrouped.plan : nullptr};
    if (!std::exchange(noise_told_, true)) {
      if (flexible_sp_)
        run.monitor.note(fmt::format("{}; groups of this step: {}", flexible_sp_->describe(), regrouped.summary));
      tell_noise(recipe_, has_segment(rollout_, data::SegmentKind::av),
                 grpo::measure_log_prob_noise(setup, step.trajectories), run.monitor);
    }
    auto stats = grpo::update(setup, step.trajectories, step.advantages, optimization.lr_factor);
    if (!stats) return false;
    for (const TaskStep& task : step.tasks) runs_[task.task]->statistics() = task.advantages.statistics;
    step.metrics.merge(*stats);
    drawn_.rates("throughput/", step.watch.seconds(), step.metrics);
    return true;
  }

  fs::path output(const fs::path& run_dir) const override { return run_dir / "final"; }

  // Nothing in it names the run: equal weights are equal bytes.
  void write_model(const fs::path& destination, int64_t /*step*/) override {
    checkpoint::ExportOptions options;
    options.dtype = recipe_.policy.dtype == policy::DtypeChoice::float32 ? at::kFloat : at::kBFloat16;
    options.generation_config = written_generation(recipe_);
    checkpoint::export_model(recipe_.policy.model, destination, policies_.policy->merged(), options);
  }

 private:
  void refuse_too_many_dropped(const Step& step, const TaskStep& task) const {
    const size_t samples = task.num_samples();
    const int64_t dropped = task.advantages.num_dropped;
    if (static_cast<double>(dropped) <= recipe_.reward.max_dropped * static_cast<double>(samples)) return;
    throw RuntimeFailure("step {}: {} of {} samples{} have no reward, more than reward.max_dropped = {} allows",
                         step.number(), dropped, samples, task.name.empty() ? "" : " of task " + task.name,
                         recipe_.reward.max_dropped);
  }

  const Recipe& recipe_;
  const Runtime& runtime_;
  const std::vector<recipe::Task> tasks_;
  const rollout::RolloutConfig rollout_;  // that the update goes by
  PromptPlaces places_;
  Policies policies_;
  std::vector<std::unique_ptr<TaskRun>> runs_;  // [tasks]
  std::optional<FlexibleSp> flexible_sp_;
  Drawn drawn_;                 // in the step under way, those that were replaced among them
  double rollout_seconds_ = 0;  // of it
  bool noise_told_ = false;
};

}  // namespace

std::unique_ptr<Objective> make_grpo_objective(const Recipe& recipe, const Runtime& runtime) {
  return std::make_unique<GrpoObjective>(recipe, runtime);
}

}  // namespace unigrpo::train

#include "base/clock.h"
#include "data/prompt_file.h"
#include "monitor/drift_monitor.h"
#include "rollout/deal.h"
#include "runtime/ranks.h"
#include "train/build.h"
#include "train/hooks/hooks.h"

namespace unigrpo::train {
namespace {

class DriftHook : public StepHook, public Stateful {
 public:
  explicit DriftHook(const RunContext& run)
      : run_(run),
        config_(run.recipe.monitor.drift),
        plan_(monitor::plan_probes(config_, run.recipe.grpo.prompts_per_step * run.recipe.grpo.group_size)),
        probes_(probes_of(run.objective.sampled(), plan_.prompts)),
        monitor_(config_) {}

  bool before_update(Step& step) override {
    if (!plan_.is_due(step.index)) return true;
    run_.enter(step.number(), "probe");
    Stopwatch watch;
    monitor::DriftMonitor::Measured own, measured;  // of this rank's groups, of all
    const bool drawn = uninterrupted(run_.runtime, [&] {
      std::vector<data::Sample> samples;
      for (const Probe& probe : probes_) draw(probe, samples);
      own = monitor_.measure(samples);
      return !run_.runtime.stop.requested();  // they may have been cut short
    });
    if (!drawn) return false;
    for (const auto& of_rank : gather(run_.runtime, own, "probe")) {
      for (const auto& [name, values] : of_rank) measured[name].insert(values.begin(), values.end());
    }
    monitor::DriftMonitor::Observation seen = monitor_.observe(step.number(), measured);
    step.metrics.merge(seen.metrics);
    for (const monitor::DriftAlarm& alarm : seen.raised) run_.monitor.note(monitor::describe(alarm));
    if (config_.action == monitor::DriftAction::stop && !seen.raised.empty()) {
      reason_ = monitor::describe(seen.raised.front()) + " (monitor.drift.action = stop)";
    }
    step.metrics["time/probe"] = watch.restart();
    return true;
  }

  std::optional<std::string> stop_reason() const override { return reason_; }

  Stateful* stateful() override { return this; }
  std::string name() const override { return "drift_monitor"; }
  State state() const override { return {.values = monitor_.state()}; }
  void load_state(const State& state, const std::string& where) override { monitor_.restore(state.values, where); }

 private:
  /// The watched prompts of a task.
  struct Probe {
    std::vector<data::Prompt> prompts;
    rollout::RolloutEngine* engine;
    int64_t first = 0;  // group among all
  };

  /// As many of each task, the first ones one more where that does not go up.
  static std::vector<Probe> probes_of(const std::vector<Sampled>& tasks, int64_t prompts) {
    std::vector<Probe> probes;
    const auto count = static_cast<int64_t>(tasks.size());
    int64_t first = 0;
    for (int64_t t = 0; t < count; ++t) {
      const int64_t share = prompts / count + (t < prompts % count ? 1 : 0);
      if (share == 0) continue;
      const Sampled& task = tasks[static_cast<size_t>(t)];
      probes.push_back({data::spread_over(task.prompts, share), task.engine, first});
      first += std::ssize(probes.back().prompts);
    }
    return probes;
  }

  /// This rank's share of a probe.
  void draw(const Probe& probe, std::vector<data::Sample>& samples) const {
    rollout::RolloutRequest request = request_for(probe.prompts, config_.samples, probe.first);
    request.step = 0;  // training's steps are keyed from 1
    request.stochastic = false;
    request.guidance.text_scale = run_.recipe.rollout.rollout_cfg_scale;
    request.ranges = rollout::whole_groups({.num_prompts = static_cast<int64_t>(probe.prompts.size()),
                                            .group_size = config_.samples,
                                            .rank = own_share(run_.runtime),
                                            .num_ranks = num_shares(run_.runtime)});
    for (auto& trajectory : probe.engine->rollout(request)) {
      samples.push_back(std::move(trajectory.sample));
      samples.back().group += probe.first;
    }
  }

  RunContext run_;
  const monitor::DriftConfig& config_;
  const monitor::ProbePlan plan_;
  const std::vector<Probe> probes_;
  monitor::DriftMonitor monitor_;
  std::optional<std::string> reason_;
};

}  // namespace

std::unique_ptr<StepHook> make_drift_hook(const RunContext& run) { return std::make_unique<DriftHook>(run); }

}  // namespace unigrpo::train

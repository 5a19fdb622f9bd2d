#include <fmt/format.h>

#include <algorithm>

#include "monitor/silence_watch.h"
#include "recipe/tasks.h"
#include "train/hooks/hooks.h"

namespace unigrpo::train {
namespace {

// What a watch is called in drift_raised/<name>; a term's has its name between the last two.
constexpr const char *kReward = "reward_spread", *kTruncated = "truncated_ratio";
constexpr std::string_view kTermPrefix = "reward/", kTermSuffix = "_spread";

/// Whether the term gave every sample of the step one and the same score.
bool is_constant(const reward::ScoreTable& scores, size_t term) {
  const auto value = [&](const std::vector<reward::Score>& row) { return row[term].value; };
  return std::ranges::adjacent_find(scores.scores, std::ranges::not_equal_to(), value) == scores.scores.end();
}

class SilenceHook : public StepHook, public Stateful {
 public:
  explicit SilenceHook(const RunContext& run) : run_(run) {}

  bool after_update(Step& step) override {
    if (step.trajectories.empty()) return true;  // it was counted before the stop
    const grpo::Advantages& groups = step.advantages;
    const bool no_spread = groups.num_zero_std_groups() > 0 &&
                           groups.num_zero_std_groups() + groups.num_dropped_groups == groups.num_groups;
    std::map<std::string, bool> silent = {{kReward, no_spread}, {kTruncated, false}};
    for (const auto& [name, value] : step.metrics) {
      if (name.ends_with("text/truncated_ratio") && value == 1) silent[kTruncated] = true;
    }
    // One term of several is told if it never fired; one that has become the same for all may just be fulfilled.
    for (const TaskStep& task : step.tasks) {
      const auto& terms = task.scores.terms;
      const std::string prefix = fmt::format("{}{}", kTermPrefix, of_several(task));
      for (size_t k = 0; terms.size() > 1 && k < terms.size(); ++k) {
        const std::string name = fmt::format("{}{}{}", prefix, terms[k], kTermSuffix);
        silent[name] = is_constant(task.scores, k) && watch_.steps(name) == step.index;
      }
    }
    for (const std::string& name : watch_.observe(silent)) tell(name, step);
    return true;
  }

  std::optional<std::string> stop_reason() const override { return reason_; }

  Stateful* stateful() override { return this; }
  std::string name() const override { return "silence_watch"; }
  State state() const override { return {.values = watch_.state()}; }
  void load_state(const State& state, const std::string& where) override { watch_.restore(state.values, where); }

 private:
  /// "draw/" where the recipe has several tasks.
  std::string of_several(const TaskStep& task) const { return run_.recipe.tasks.size() > 1 ? task.name + "/" : ""; }

  void tell(const std::string& name, Step& step) {
    const auto mean = step.metrics.find("reward/mean");
    const int64_t steps = monitor::SilenceWatch::kSteps;
    std::string text;
    if (name == kTruncated) {
      const std::vector<recipe::Task> tasks = recipe::tasks_of(run_.recipe);
      text = tasks.size() > 1
                 ? fmt::format("every text of a task in the last {} steps was cut off by its max_tokens", steps)
                 : fmt::format("every text of the last {} steps was cut off by rollout.max_tokens = {}", steps,
                               tasks.front().rollout.max_tokens);
    } else if (name == kReward) {
      text =
          fmt::format("for {} steps no prompt's samples had different rewards (mean {}): nothing is learned from them",
                      steps, mean == step.metrics.end() ? "none" : fmt::format("{:.3g}", mean->second));
    } else {
      const std::string_view term = std::string_view(name).substr(kTermPrefix.size());
      text = fmt::format("in the run's {} steps reward '{}' gave all samples one score: it tells nothing apart", steps,
                         term.substr(0, term.size() - kTermSuffix.size()));
    }
    text = fmt::format("alarm at step {}: {}", step.number(), text);
    run_.monitor.note("warning: " + text);
    step.metrics["drift_raised/" + name] = name == kTruncated ? 1 : -1;
    const monitor::DriftConfig& drift = run_.recipe.monitor.drift;
    if (drift.enabled && drift.action == monitor::DriftAction::stop && (name == kReward || name == kTruncated)) {
      reason_ = text + " (monitor.drift.action = stop)";
    }
  }

  RunContext run_;
  monitor::SilenceWatch watch_;
  std::optional<std::string> reason_;
};

}  // namespace

std::unique_ptr<StepHook> make_silence_hook(const RunContext& run) { return std::make_unique<SilenceHook>(run); }

}  // namespace unigrpo::train

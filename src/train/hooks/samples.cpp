#include <fmt/format.h>

#include <map>
#include <set>

#include "base/interleave.h"
#include "monitor/samples_file.h"
#include "runtime/ranks.h"
#include "train/draw.h"
#include "train/hooks/hooks.h"
#include "train/sample_row.h"

namespace unigrpo::train {
namespace {

/// What the sample's texts and images were trained with.
std::map<std::string, double> advantages_of(const Step& step, size_t i) {
  std::map<std::string, double> of;
  const rollout::Trajectory& trajectory = step.trajectories[i];
  const auto num_texts = static_cast<double>(trajectory.texts.size());
  for (const auto& text : trajectory.texts) of["text"] += step.advantages.of_text(i, text.finished) / num_texts;
  for (const auto& flow : trajectory.flows) {
    for (const auto& stream : flow.streams) of[stream.modality] = step.advantages.of_flow(stream.modality)[i];
  }
  return of;
}

class SampleHook : public StepHook {
 public:
  explicit SampleHook(const RunContext& run) : run_(run) {}

  bool after_update(Step& step) override {
    const auto& [config, grpo] = std::tie(run_.recipe.monitor, run_.recipe.grpo);
    const bool is_due = step.number() == 1 || step.number() % config.sample_every == 0;
    if (step.trajectories.empty() || !is_due) return true;
    // One sample of each group in turn, so that the grid shows different prompts.
    const auto group_size = static_cast<size_t>(grpo.group_size);
    std::vector<size_t> shown, sizes;
    for (const TaskStep& task : step.tasks) sizes.push_back(task.num_samples() / group_size);
    const std::vector<size_t> groups = interleaved(sizes);
    for (size_t g = 0; g < group_size; ++g) {
      for (const size_t p : groups) {
        const size_t i = p * group_size + g;
        if (static_cast<int64_t>(shown.size()) >= config.num_samples || i >= step.trajectories.size()) continue;
        shown.push_back(i);
      }
    }
    std::vector<data::Sample> samples = whole_samples(run_.runtime, step.trajectories, shown);
    if (!is_root(run_.runtime)) return true;
    std::vector<monitor::SampleRow> rows;
    std::set<std::string> ids;
    for (size_t k = 0; k < shown.size(); ++k) {
      const size_t i = shown[k];
      const TaskStep& task = step.task_of(i);
      monitor::SampleRow row = sample_row(std::move(samples[k]), task.scores.terms, task.scores.scores[i - task.first]);
      row.reward = step.advantages.rewards[i];
      row.advantage = advantages_of(step, i);
      // A prompt may come twice in a step: its second group is told apart by its place.
      if (!ids.insert(row.sample.id).second) row.sample.id += fmt::format("@{}", step.trajectories[i].prompt_index);
      rows.push_back(std::move(row));
    }
    monitor::write_samples(run_.folder.samples(step.number()), rows);
    return true;
  }

 private:
  RunContext run_;
};

}  // namespace

std::unique_ptr<StepHook> make_sample_hook(const RunContext& run) { return std::make_unique<SampleHook>(run); }

}  // namespace unigrpo::train

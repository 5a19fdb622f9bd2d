#include <fmt/format.h>

#include <set>

#include "monitor/samples_file.h"
#include "train/hooks/hooks.h"
#include "train/sample_row.h"

namespace unigrpo::train {
namespace {

class SampleHook : public StepHook {
 public:
  explicit SampleHook(const RunContext& run) : run_(run) {}

  void after_step(const Step& step) override {
    const auto& [config, grpo] = std::tie(run_.recipe.monitor, run_.recipe.grpo);
    if (step.trajectories.empty() || step.index % config.sample_every != 0) return;
    // One sample of each group in turn, so that the grid shows different prompts.
    std::vector<monitor::SampleRow> rows;
    std::set<std::string> ids;
    for (int64_t g = 0; g < grpo.group_size; ++g) {
      for (int64_t p = 0; p < grpo.prompts_per_step; ++p) {
        const auto i = static_cast<size_t>(p * grpo.group_size + g);
        if (static_cast<int64_t>(rows.size()) >= config.num_samples || i >= step.trajectories.size()) continue;
        monitor::SampleRow row = sample_row(step.trajectories[i].sample, step.scores.terms, step.scores.scores[i]);
        row.reward = step.advantages.rewards[i];
        row.advantage = step.advantages.text[i];
        // A prompt may come twice in a step: its second group is told apart by its place.
        if (!ids.insert(row.sample.id).second) row.sample.id += fmt::format("@{}", p);
        rows.push_back(std::move(row));
      }
    }
    monitor::write_samples(run_.folder.samples(step.index), rows);
  }

 private:
  RunContext run_;
};

}  // namespace

std::unique_ptr<StepHook> make_sample_hook(const RunContext& run) { return std::make_unique<SampleHook>(run); }

}  // namespace unigrpo::train

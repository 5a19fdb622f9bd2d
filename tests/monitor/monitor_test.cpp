#include "monitor/monitor.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "io/atomic_file.h"
#include "monitor/metrics_file.h"
#include "support/temp_folder.h"

namespace unigrpo::monitor {
namespace {

using testing::TempFolder;

/// From `done` steps done to `last`.
void run(const std::filesystem::path& folder, int64_t done, int64_t last, bool resume) {
  const auto last_row = resume ? std::optional(done == 0 ? -1 : done) : std::nullopt;
  Monitor monitor({.run_dir = folder, .config = {}, .num_steps = 10, .last_row = last_row, .quiet = true});
  if (done == 0) monitor.record({.step = 0, .values = {{"eval/strict", 0.5}}});
  for (int64_t step = done + 1; step <= last; ++step) {
    monitor.phase("rollout");
    monitor.record({.step = step, .values = {{"reward/mean", 0.1 * static_cast<double>(step)}}});
  }
  monitor.finish();
}

TEST(Monitor, AResumedRunLeavesTheFileOfARunLeftAlone) {
  const TempFolder whole, resumed;
  run(whole.path(), 0, 10, false);
  run(resumed.path(), 0, 7, false);
  run(resumed.path(), 4, 10, true);
  EXPECT_EQ(io::read_text_file(whole.path() / "metrics.jsonl"), io::read_text_file(resumed.path() / "metrics.jsonl"));
  run(resumed.path(), 0, 10, true);  // no checkpoint was there
  EXPECT_EQ(io::read_text_file(whole.path() / "metrics.jsonl"), io::read_text_file(resumed.path() / "metrics.jsonl"));
}

TEST(Monitor, EachStepIsInTheFileAtOnce) {
  const TempFolder folder;
  Monitor monitor({.run_dir = folder.path(), .config = {}, .num_steps = 3, .quiet = true});
  monitor.record({.step = 0, .values = {{"a", 1}}});
  EXPECT_EQ(read_metrics(folder.path() / "metrics.jsonl").steps.size(), 1U);
}

TEST(Monitor, ANewRunDoesNotWriteOverAnOldOne) {
  const TempFolder folder;
  folder.write("metrics.jsonl", "{\"step\": 0}\n");
  EXPECT_THROW(Monitor({.run_dir = folder.path(), .config = {}, .quiet = true}), BadInput);
  EXPECT_EQ(io::read_text_file(folder.path() / "metrics.jsonl"), "{\"step\": 0}\n");
}

TEST(Monitor, TensorboardCanBeLeftOut) {
  const TempFolder folder;
  MonitorConfig config;
  config.tensorboard = false;
  Monitor monitor({.run_dir = folder.path(), .config = config, .quiet = true});
  monitor.record({.step = 0, .values = {{"a", 1}}});
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "tensorboard"));
}

}  // namespace
}  // namespace unigrpo::monitor

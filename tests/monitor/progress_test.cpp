#include "monitor/progress.h"

#include <gtest/gtest.h>

#include <memory>

namespace unigrpo::monitor {
namespace {

struct Screen {
  std::string text;
  double seconds = 0;
  int width = 120;

  Progress::Options options(bool live) {
    return {.num_steps = 200,
            .live = live,
            .width = [this] { return width; },
            .now = [this] { return seconds; },
            .write = [this](std::string_view bytes) { text += bytes; }};
  }
  // What a terminal shows after the last redraw.
  std::string last_line() const {
    const std::string start = "\r\x1b[K";
    const size_t begin = text.rfind(start) + start.size();
    return text.substr(begin, text.find('\r', begin) - begin);
  }
};

StepRecord record_of(int64_t step, double reward) {
  return {.step = step,
          .values = {
              {"reward/mean", reward}, {"text/kl", 0.00123}, {"time/step", 4.5}, {"throughput/images_per_s", 41.26}}};
}

TEST(Progress, PlainLinesAreOneAStepWithoutControlCharacters) {
  Screen screen;
  Progress progress(screen.options(false));
  progress.phase("rollout");
  screen.seconds = 5;
  progress.record(record_of(1, 0.25));
  screen.seconds = 9.5;
  progress.record(record_of(2, 0.5));
  progress.finish();
  EXPECT_EQ(screen.text,
            "step 1/200  reward/mean 0.25  text/kl 0.00123  throughput/images_per_s 41.3  4.50 s  "
            "16 min 35 s left\n"
            "step 2/200  reward/mean 0.5  text/kl 0.00123  throughput/images_per_s 41.3  4.50 s  "
            "14 min 51 s left\n"
            "2 steps in 9.5 s  reward/mean 0.25 -> 0.5\n");
}

TEST(Progress, RanksAreSeenWhereThereAreSeveral) {
  StepRecord record = record_of(1, 0.25);
  record.values.merge(std::map<std::string, double>{
      {"parallel/comm_share", 0.034}, {"parallel/wait_share_max", 0.12}, {"parallel/slowest_rank", 1}});
  Screen plain, live;
  Progress line(plain.options(false)), bar(live.options(true));
  line.record(record);
  EXPECT_NE(plain.text.find("  parallel/comm_share 0.034  parallel/wait_share_max 0.12  parallel/slowest_rank 1  "),
            std::string::npos)
      << plain.text;
  bar.record(record);
  EXPECT_NE(live.last_line().find("comm 3%, wait 12% for rank 1"), std::string::npos) << live.last_line();
}

TEST(Progress, LiveLineShowsStepRewardPhaseThroughputAndTimeLeft) {
  Screen screen;
  Progress progress(screen.options(true));
  screen.seconds = 4.5;
  progress.record(record_of(1, 0.25));
  screen.seconds = 9;
  progress.record(record_of(37, 0.5));
  progress.phase("update");
  EXPECT_EQ(screen.last_line(),
            "step 37/200  ===-----------------  reward 0.5  _#  update  41.3 images/s  12 min 14 s left");
}

TEST(Progress, ANarrowTerminalLosesWhatMattersLeast) {
  Screen screen;
  Progress progress(screen.options(true));
  screen.seconds = 4.5;
  progress.phase("update");
  progress.record(record_of(37, 0.5));
  std::vector<std::string> lines;
  for (int width = 130; width > 0; --width) {
    screen.width = width;
    progress.redraw();
    EXPECT_LT(screen.last_line().size(), static_cast<size_t>(width));
    if (lines.empty() || lines.back() != screen.last_line()) lines.push_back(screen.last_line());
  }
  ASSERT_GE(lines.size(), 6U);
  EXPECT_EQ(lines[1], "step 37/200  reward 0.5  update  41.3 images/s  12 min 14 s left");
  EXPECT_EQ(lines[2], "step 37/200  reward 0.5  update  12 min 14 s left");
  EXPECT_EQ(lines[3], "step 37/200  reward 0.5  update");
  EXPECT_EQ(lines[4], "step 37/200  reward 0.5");
  EXPECT_EQ(lines[5], "step 37/200");
}

TEST(Progress, WithoutARewardALossStandsForTheRun) {
  Screen screen;
  Progress progress(screen.options(true));
  progress.record({.step = 1, .values = {{"image/loss", 0.75}}});
  EXPECT_NE(screen.last_line().find("image/loss 0.75"), std::string::npos) << screen.last_line();

  Screen plain;
  Progress sft(plain.options(false));
  sft.record({.step = 1, .values = {{"sft/reconstruction_l1", 0.5}, {"sft/kl", 2}, {"time/step", 1}}});
  sft.finish();
  EXPECT_NE(plain.text.find("step 1/200  sft/reconstruction_l1 0.5  1.00 s"), std::string::npos) << plain.text;
  EXPECT_NE(plain.text.find("sft/reconstruction_l1 0.5 -> 0.5"), std::string::npos) << plain.text;
}

TEST(Progress, UpToThreeRewardsAreNamedWhereThereAreSeveral) {
  StepRecord record = record_of(1, 0.25);
  record.values["reward/std"] = 0.1;
  record.values["reward/dropped"] = 3;
  record.values["reward/geneval"] = 0.5;
  record.values["reward/geneval_strict"] = 0.25;
  Screen one;
  Progress(one.options(false)).record(record);
  EXPECT_EQ(one.text.find("reward/geneval"), std::string::npos) << one.text;  // it is the mean

  for (const char* name : {"reward/judge", "reward/ocr", "reward/text_length"}) record.values[name] = 0.75;
  Screen plain, live;
  Progress(plain.options(false)).record(record);
  EXPECT_EQ(plain.text.substr(0, plain.text.find("  text/kl")),
            "step 1/200  reward/mean 0.25  reward/geneval 0.5  reward/judge 0.75  reward/ocr 0.75  reward/std 0.1");
  Progress progress(live.options(true));
  live.width = 160;
  progress.record(record);
  EXPECT_NE(live.last_line().find("reward 0.25  geneval 0.5 judge 0.75 ocr 0.75  "), std::string::npos)
      << live.last_line();
}

TEST(Progress, AStepWithoutARewardShowsNoneOfAnEarlierOne) {
  Screen screen;
  Progress progress(screen.options(true));
  progress.record(record_of(1, 0.25));
  progress.record({.step = 2, .values = {{"reward/dropped", 6}}});
  EXPECT_NE(screen.last_line().find("step 2/200"), std::string::npos);
  EXPECT_NE(screen.last_line().find("reward -"), std::string::npos) << screen.last_line();
}

TEST(Progress, AWarmStartShowsItsLoss) {
  Screen plain, live;
  Progress lines(plain.options(false)), line(live.options(true));
  for (Progress* progress : {&lines, &line}) {
    progress->record({.step = 1, .values = {{"sft/loss", 2.5}, {"sft/cross_entropy", 2}, {"time/step", 1}}});
  }
  EXPECT_TRUE(plain.text.starts_with("step 1/200  sft/loss 2.5  sft/cross_entropy 2  1.00 s")) << plain.text;
  EXPECT_NE(live.last_line().find("sft/loss 2.5"), std::string::npos) << live.last_line();
}

TEST(Progress, TheRowBeforeTrainingIsNoStep) {
  Screen screen;
  Progress progress(screen.options(false));
  progress.record({.step = 0, .values = {{"eval/strict", 0.375}}});
  EXPECT_EQ(screen.text, "step 0/200  eval/strict 0.375\n");
  progress.record(record_of(1, 0.25));
  progress.finish();
  EXPECT_TRUE(screen.text.ends_with("\n1 step in 0.0 s  reward/mean 0.25 -> 0.25\n")) << screen.text;
}

TEST(Progress, NothingIsDrawnAfterTheEnd) {
  Screen screen;
  Progress progress(screen.options(true));
  progress.phase("rollout");
  progress.finish();
  const std::string before = screen.text;
  progress.redraw();
  progress.finish();
  EXPECT_EQ(screen.text, before);
}

TEST(Progress, NamesTheTasksRewards) {
  StepRecord record = record_of(1, 0.25);
  record.values["task/draw/reward/mean"] = 0.125;
  record.values["task/draw/text/length"] = 9;
  Screen one;
  Progress alone(one.options(false));
  alone.record(record);
  EXPECT_EQ(one.text.find("task/"), std::string::npos) << one.text;
  record.values["task/ask/reward/mean"] = 0.5;
  Screen two;
  Progress both(two.options(false));
  both.record(record);
  EXPECT_NE(two.text.find("reward/mean 0.25  task/ask/reward/mean 0.5  task/draw/reward/mean 0.125  text/kl"),
            std::string::npos)
      << two.text;
  Screen live;
  Progress bar(live.options(true));
  bar.record(record);
  EXPECT_NE(live.last_line().find("ask 0.5 draw 0.125"), std::string::npos) << live.last_line();
}

}  // namespace
}  // namespace unigrpo::monitor

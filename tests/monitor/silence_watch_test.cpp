#include "monitor/silence_watch.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace unigrpo::monitor {
namespace {

using Names = std::vector<std::string>;

TEST(SilenceWatch, TellsOnceWhatHasLastedAndAgainAfterABreak) {
  SilenceWatch watch;
  for (int64_t step = 1; step <= 40; ++step) {
    EXPECT_EQ(watch.observe({{"reward", true}, {"text", false}}),
              step == SilenceWatch::kSteps ? Names{"reward"} : Names{})
        << step;
  }
  EXPECT_EQ(watch.observe({{"reward", false}}), Names{});
  for (int64_t step = 1; step < SilenceWatch::kSteps; ++step) EXPECT_EQ(watch.observe({{"reward", true}}), Names{});
  EXPECT_EQ(watch.observe({{"reward", true}}), Names{"reward"});
}

TEST(SilenceWatch, AStateGoesOnWhereItWas) {
  SilenceWatch first, second;
  for (int64_t step = 1; step < SilenceWatch::kSteps; ++step) first.observe({{"reward", true}});
  second.restore(first.state(), "here");
  EXPECT_EQ(second.steps("reward"), SilenceWatch::kSteps - 1);
  EXPECT_EQ(second.observe({{"reward", true}}), Names{"reward"});
  EXPECT_THROW(second.restore({{"reward", "two"}}, "here"), BadInput);
}

}  // namespace
}  // namespace unigrpo::monitor

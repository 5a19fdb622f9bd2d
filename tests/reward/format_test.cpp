#include "reward/builtin/format.h"

#include <gtest/gtest.h>

namespace unigrpo::reward {
namespace {

double value_of(const std::string& text, bool finished = true) {
  data::Sample sample;
  sample.segments.push_back({.kind = data::SegmentKind::text, .text = text, .finished = finished, .image = {}});
  sample.segments.push_back({.kind = data::SegmentKind::text, .text = "later", .image = {}});
  return make_format_reward()->score(std::vector{sample})[0].value.value();
}

TEST(FormatReward, WantsOneEndedThought) {
  EXPECT_EQ(value_of("<think> one red circle </think>"), 1);
  EXPECT_EQ(value_of(" <think>one red circle</think>\n"), 1);
  EXPECT_EQ(value_of("<think> one red circle </think>", false), 0);
  EXPECT_EQ(value_of("one red circle"), 0);
  EXPECT_EQ(value_of("<think> one red circle"), 0);
  EXPECT_EQ(value_of("<think> one </think> red"), 0);
  EXPECT_EQ(value_of("<think> one </think> <think> two </think>"), 0);
  EXPECT_EQ(value_of("<think> <think> one </think>"), 0);
  EXPECT_EQ(value_of("<think> </think>"), 0);
  EXPECT_EQ(value_of("<think></think>"), 0);
  EXPECT_EQ(value_of(""), 0);
}

TEST(FormatReward, NoTextIsNotInTheFormat) {
  const Score score = make_format_reward()->score(std::vector{data::Sample{}})[0];
  EXPECT_EQ(score.value, 0.0);
  EXPECT_EQ(score.reason, "no text");
  EXPECT_EQ(make_format_reward()->missing_metadata("{}"), "");
}

}  // namespace
}  // namespace unigrpo::reward

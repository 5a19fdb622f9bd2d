#include <gtest/gtest.h>

#include "reward/builtin/last_image.h"

namespace unigrpo::reward {
namespace {

TEST(SaturationReward, IsTheMeanOverPixels) {
  data::Sample sample;
  // Saturations 1 (pure red), 0 (grey), 0.5, 0 (black).
  const Image image = {.width = 2, .height = 2, .pixels = {200, 0, 0, 90, 90, 90, 50, 100, 75, 0, 0, 0}};
  sample.segments.push_back({.kind = data::SegmentKind::image, .text = "", .image = image});
  EXPECT_DOUBLE_EQ(make_saturation_reward()->score(std::vector{sample})[0].value.value(), 1.5 / 4);
}

TEST(SaturationReward, HasNoScoreWithoutAnImage) {
  const Score score = make_saturation_reward()->score(std::vector{data::Sample{}})[0];
  EXPECT_FALSE(score.value);
  EXPECT_EQ(score.reason, "no image");
}

}  // namespace
}  // namespace unigrpo::reward

#include <gtest/gtest.h>

#include "reward/builtin/last_image.h"

namespace unigrpo::reward {
namespace {

TEST(BrightnessReward, IsTheMeanLumaOfTheLastImage) {
  data::Sample sample;
  const auto add = [&](std::vector<uint8_t> pixels) {
    sample.segments.push_back(
        {.kind = data::SegmentKind::image, .text = "", .image = {.width = 2, .height = 1, .pixels = pixels}});
  };
  add({255, 255, 255, 255, 255, 255});
  add({0, 0, 0, 51, 51, 51});
  EXPECT_DOUBLE_EQ(make_brightness_reward()->score(std::vector{sample})[0].value.value(), 0.1);
}

TEST(BrightnessReward, HasNoScoreWithoutAnImage) {
  const Score score = make_brightness_reward()->score(std::vector{data::Sample{}})[0];
  EXPECT_FALSE(score.value);
  EXPECT_EQ(score.reason, "no image");
  EXPECT_EQ(make_brightness_reward()->missing_metadata("{}"), "");
}

}  // namespace
}  // namespace unigrpo::reward

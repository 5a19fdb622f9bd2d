#include "media/detect/quality.h"

#include "media/clips.h"

namespace unigrpo::media::detect {
namespace {

TEST(LookAtQuality, BarsAreFoundToThePixel) {
  Frames frames = moving_disc({.height = 40, .width = 50}).frames;
  for (int64_t k = 0; k < frames.count; ++k) {
    for (int y = 0; y < 40; ++y) {
      for (int x = 0; x < 50; ++x) {
        if (y < 4 || y >= 34 || x < 5) std::fill_n(frames.frame(k) + 3 * (50 * y + x), 3, 16);
      }
    }
  }
  const PictureQuality::Box box = look_at_quality(frames, {16, 1}).inside;
  EXPECT_DOUBLE_EQ(box.x, 0.1);
  EXPECT_DOUBLE_EQ(box.y, 0.1);
  EXPECT_DOUBLE_EQ(box.width, 0.9);
  EXPECT_DOUBLE_EQ(box.height, 0.75);
}

TEST(LookAtQuality, FramesThatAreShownTwiceAreSlowMotion) {
  const Frames frames = moving_disc({.count = 32}).frames;
  Frames slow = frames;
  for (int64_t k = 0; k < 32; ++k) std::copy_n(frames.frame(k / 2), frames.frame_bytes(), slow.frame(k));
  EXPECT_EQ(look_at_quality(frames, {16, 1}).repeated, 0);
  EXPECT_NEAR(look_at_quality(slow, {16, 1}).repeated, 0.5, 0.05);
  EXPECT_GT(look_at_quality(frames, {16, 1}).motion, look_at_quality(slow, {16, 1}).motion);
  Frames frozen = frames;
  for (int64_t k = 0; k < 32; ++k) std::copy_n(frames.frame(0), frames.frame_bytes(), frozen.frame(k));
  EXPECT_EQ(look_at_quality(frozen, {16, 1}).moving, 0);
  EXPECT_EQ(look_at_quality(frozen, {16, 1}).repeated, 0);
}

TEST(ListenToQuality, LevelsAreThoseOfASine) {
  Sound sound = {.channels = 2, .rate = 8000, .samples = std::vector<float>(16'000)};
  for (int i = 0; i < 8000; ++i) sound.channel(0)[i] = std::sin(2 * std::numbers::pi_v<float> * 441 * i / 8000);
  const SoundQuality quality = listen_to_quality(sound);
  EXPECT_NEAR(quality.channel_db[0], -3.01, 0.01);  // 10 log10(1/2)
  EXPECT_EQ(quality.channel_db[1], -200);
  EXPECT_NEAR(quality.level_db, -6.02, 0.01);
  // Of a sine, 1 - 2/pi asin(0.95) and 1 - 2/pi asin(0.5) of the time.
  EXPECT_NEAR(quality.clipped, 0.2022 / 0.6667, 0.01);
  EXPECT_NEAR(quality.full_scale, 0.2022 / 2, 0.005);
}

}  // namespace
}  // namespace unigrpo::media::detect

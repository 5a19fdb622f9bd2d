#include "media/detect/cuts.h"

#include "media/clips.h"

namespace unigrpo::media::detect {
namespace {

/// Frames of several clips, one behind the other, each times a brightness by frame.
template <typename Brightness>
Frames joined_frames(const std::vector<Frames>& parts, const Brightness& brightness) {
  Frames all = {.count = 0, .height = parts[0].height, .width = parts[0].width, .pixels = {}};
  for (const Frames& part : parts) {
    for (int64_t k = 0; k < part.count; ++k, ++all.count) {
      for (size_t i = 0; i < part.frame_bytes(); ++i) {
        all.pixels.push_back(static_cast<uint8_t>(part.frame(k)[i] * brightness(all.count)));
      }
    }
  }
  return all;
}

Frames striped(int64_t count, int width, int shade) {
  Frames frames = moving_disc({.count = count}).frames;
  for (size_t i = 0; i < frames.pixels.size(); ++i) {
    const auto x = static_cast<int>(i / 3 % static_cast<size_t>(frames.width));
    if (x / width % 2 == 0) frames.pixels[i] = static_cast<uint8_t>(shade);
  }
  return frames;
}

const auto kAsItIs = [](int64_t) { return 1.0; };

TEST(FindShots, WhatOnlyMovesIsOneShot) {
  for (uint64_t seed = 1; seed < 20; ++seed) {
    const Frames frames = moving_disc({.count = 40}, seed).frames;
    EXPECT_EQ(find_shots(frames), (std::vector<Shot>{{0, 40}})) << seed;
  }
}

TEST(FindShots, CutsAreFoundToTheFrame) {
  const Frames frames =
      joined_frames({moving_disc({.count = 20}).frames, striped(13, 6, 240), striped(17, 3, 10)}, kAsItIs);
  EXPECT_EQ(find_shots(frames), (std::vector<Shot>{{0, 20}, {20, 13}, {33, 17}}));
}

TEST(FindShots, FadesBelongToNoShot) {
  // From frame 20 to 28 into black, out of it again to frame 36.
  const auto fading = [](int64_t k) { return k < 20 || k > 36 ? 1.0 : std::abs(28 - static_cast<double>(k)) / 8; };
  const std::vector<Shot> shots = find_shots(joined_frames({striped(57, 6, 240)}, fading));
  ASSERT_EQ(shots.size(), 2U);
  EXPECT_EQ(shots[0].first, 0);
  EXPECT_NEAR(static_cast<double>(shots[0].count), 20, 1);
  EXPECT_NEAR(static_cast<double>(shots[1].first), 37, 1);
  EXPECT_EQ(shots[1].first + shots[1].count, 57);
}

TEST(FindShots, PlainPicturesAreNoShot) {
  EXPECT_EQ(find_shots(joined_frames({striped(20, 6, 240)}, [](int64_t) { return 0.0; })), std::vector<Shot>{});
  EXPECT_EQ(find_shots({}), std::vector<Shot>{});
}

}  // namespace
}  // namespace unigrpo::media::detect

#include "media/timing.h"

#include <gtest/gtest.h>

#include <vector>

namespace unigrpo::media {
namespace {

TEST(Timing, TheNominalFrameIsTheMedianDistance) {
  EXPECT_EQ(nominal_frame_s({}), 0);
  EXPECT_EQ(nominal_frame_s(std::vector<double>{1, 1}), 0);
  EXPECT_DOUBLE_EQ(nominal_frame_s(std::vector<double>{0, 0.25, 0.5, 1.5, 1.75}), 0.25);
}

TEST(Timing, ARateHoldsForEveryFrame) {
  const std::vector<double> milliseconds = {0, 0.033, 0.067, 0.1, 0.133};
  EXPECT_TRUE(has_rate(milliseconds, {30, 1}, 1e-3));
  EXPECT_TRUE(has_rate(milliseconds, {30'000, 1001}, 1e-3));
  EXPECT_FALSE(has_rate(milliseconds, {30, 1}, 1e-4));
  EXPECT_FALSE(has_rate(milliseconds, {25, 1}, 1e-3));
  EXPECT_FALSE(has_rate(milliseconds, {0, 0}, 1e-3));
}

TEST(Timing, FindsUsualRates) {
  EXPECT_EQ(nearest_rate(29.97), (Rational{30'000, 1001}));
  EXPECT_EQ(nearest_rate(23.976), (Rational{24'000, 1001}));
  EXPECT_EQ(nearest_rate(25.0001), (Rational{25, 1}));
  EXPECT_EQ(nearest_rate(12.5), (Rational{25, 2}));
  EXPECT_EQ(nearest_rate(0.5), (Rational{1, 2}));
}

TEST(Timing, CountsThePlacesOfAGrid) {
  EXPECT_EQ(num_grid_frames(1.0625, {16, 1}, 1e-3), 17);
  EXPECT_EQ(num_grid_frames(1.0629, {16, 1}, 1e-3), 17);  // a clock of milliseconds
  EXPECT_EQ(num_grid_frames(1.07, {16, 1}, 1e-3), 18);
  EXPECT_EQ(num_grid_frames(0, {16, 1}, 1e-3), 1);
}

}  // namespace
}  // namespace unigrpo::media

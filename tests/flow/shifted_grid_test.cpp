#include "flow/shifted_grid.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/tensors.h"

namespace unigrpo::flow {
namespace {

TEST(ShiftedGrid, EndsAtTheTerminalAndMeetsPublishedValues) {
  const auto grid = shifted_grid({}, 8, 1024);  // diffusers 0.42.1
  const double want[] = {1.0,
                         0.9354738593101501,
                         0.8592633605003357,
                         0.7678793668746948,
                         0.6562888622283936,
                         0.5169569253921509,
                         0.33807069063186646,
                         0.10000000149011612,
                         0.0};
  ASSERT_EQ(grid.size(), std::size(want));
  for (size_t i = 0; i < grid.size(); ++i) EXPECT_NEAR(grid[i], want[i], 1e-6) << i;  // published in float32
}

TEST(ShiftedGrid, TheLineOfTheShiftGoesOnBeyondBothEnds) {
  EXPECT_NEAR(shift_exponent({}, 1024), 0.95, 1e-12);
  EXPECT_NEAR(shift_exponent({}, 4096), 2.05, 1e-12);
  EXPECT_NEAR(shift_exponent({}, 6144), 2.783333333333333, 1e-12);
  EXPECT_NEAR(shift_exponent({}, 24), 0.5919270833333332, 1e-12);
}

TEST(ShiftedGrid, WithoutShiftAndTerminalStepsAreEven) {
  const auto grid = shifted_grid({.dynamic = false, .terminal = std::nullopt}, 4, 1000);
  const double want[] = {1.0, 0.75, 0.5, 0.25, 0.0};
  for (size_t i = 0; i < grid.size(); ++i) EXPECT_NEAR(grid[i], want[i], 1e-12);
  EXPECT_FALSE((ShiftedGrid{.dynamic = false, .terminal = std::nullopt}.changes()));
  EXPECT_TRUE(ShiftedGrid{}.changes());
}

TEST(ShiftedGrid, OneStepGoesFromNoiseToData) {
  EXPECT_EQ(shifted_grid({}, 1, 1024), (std::vector<double>{1.0, 0.0}));
  EXPECT_EQ(testing::message_of<std::invalid_argument>([] { shifted_grid({}, 0, 1024); }),
            "shifted_grid: 0 steps, 1024 tokens, shift 1");
}

}  // namespace
}  // namespace unigrpo::flow

#include "flow/time_grid.h"

#include <gtest/gtest.h>

#include <set>
#include <stdexcept>

#include "base/error.h"

namespace unigrpo::flow {
namespace {

TEST(TimeGrid, RunsFromNoiseToData) {
  for (const double shift : {1.0, 3.0, 0.5}) {
    const auto grid = time_grid(7, shift);
    ASSERT_EQ(grid.size(), 8U);
    EXPECT_EQ(grid.front(), 1.0);
    EXPECT_EQ(grid.back(), 0.0);
    for (size_t i = 1; i < grid.size(); ++i) EXPECT_LT(grid[i], grid[i - 1]);
  }
  EXPECT_DOUBLE_EQ(time_grid(10, 3.0)[1], 3 * 0.9 / (1 + 2 * 0.9));
}

TEST(TimeGrid, RefusesEmptyGrids) {
  EXPECT_THROW(time_grid(0, 1.0), std::invalid_argument);
  EXPECT_THROW(time_grid(5, 0.0), std::invalid_argument);
}

TEST(SdeWindow, AllLeavesOutTheLastStepOfCpsAlone) {
  const WindowConfig config{.mode = WindowMode::all};
  EXPECT_EQ(choose_window(config, {.kind = SdeKind::flow_sde, .num_steps = 10}).last, 10);
  EXPECT_EQ(choose_window(config, {.kind = SdeKind::dance, .num_steps = 10}).last, 10);
  EXPECT_EQ(choose_window(config, {.kind = SdeKind::cps, .num_steps = 10}).last, 9);
}

TEST(SdeWindow, FixedStaysWhereItIs) {
  const WindowConfig config{.mode = WindowMode::fixed, .width = 3, .first = 2};
  for (uint64_t step = 0; step < 5; ++step) {
    const SdeWindow window = choose_window(config, {.num_steps = 10, .step = step});
    EXPECT_EQ(window.first, 2);
    EXPECT_EQ(window.last, 5);
  }
}

TEST(SdeWindow, RandomReachesEveryPlaceAndNoOther) {
  const WindowConfig config{.mode = WindowMode::random, .width = 2, .first = 1, .last = 6};
  std::set<int64_t> seen;
  for (uint64_t prompt = 0; prompt < 200; ++prompt) {
    const WindowRequest request{.num_steps = 10, .seed = 4, .step = 9, .prompt = prompt};
    const SdeWindow window = choose_window(config, request);
    EXPECT_EQ(window.width(), 2);
    EXPECT_EQ(window.first, choose_window(config, request).first);  // a function of the request
    seen.insert(window.first);
  }
  EXPECT_EQ(seen, (std::set<int64_t>{1, 2, 3, 4}));
}

TEST(SdeWindow, RandomNeverTakesTheLastStepOfCps) {
  const WindowConfig config{.mode = WindowMode::random, .width = 2};
  for (uint64_t step = 0; step < 100; ++step) {
    EXPECT_LE(choose_window(config, {.kind = SdeKind::cps, .num_steps = 4, .step = step}).last, 3);
  }
}

TEST(SdeWindow, SlidingMovesByOneEveryStrideAndStartsOver) {
  const WindowConfig config{.mode = WindowMode::sliding, .width = 2, .first = 0, .last = 4, .shift_interval = 5};
  const auto first_at = [&](uint64_t step) { return choose_window(config, {.num_steps = 10, .step = step}).first; };
  for (uint64_t step = 1; step <= 15; ++step) {  // steps of a run count from 1; every place is held for five
    EXPECT_EQ(first_at(step), static_cast<int64_t>((step - 1) / 5)) << step;
  }
  EXPECT_EQ(first_at(16), 0);
}

TEST(SdeWindow, OneThatDoesNotFitIsRefusedWithItsKey) {
  const WindowConfig config{.mode = WindowMode::fixed, .width = 5, .first = 6};
  try {
    choose_window(config, {.num_steps = 10});
    FAIL();
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(),
                 "rollout.window.width: expected first + width of at most rollout.num_steps = 10, got 6 + 5");
  }
  EXPECT_THROW(choose_window({.mode = WindowMode::all}, {.kind = SdeKind::cps, .num_steps = 1}), BadInput);
}

}  // namespace
}  // namespace unigrpo::flow

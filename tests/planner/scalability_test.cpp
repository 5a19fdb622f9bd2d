#include "planner/scalability.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace unigrpo::planner {
namespace {

/// A layer whose exchanges cross nodes of 8 from 9 ranks on: work, an exchange, its latencies.
double layer_ms(int64_t ranks) {
  const auto n = static_cast<double>(ranks);
  return 96 / n + (ranks > 8 ? 2.5 : 0.4) * (n - 1) / n + 0.02 * n;
}

TEST(Scalability, PiecesGoThroughWhatWasProfiled) {
  const Scalability pieces({{2, 8.0}, {4, 5.0}, {16, 4.0}});
  EXPECT_EQ(pieces.at(4), 5.0);
  EXPECT_NEAR(*pieces.at(3), 6, 1e-12);              // 12 / n + 2
  EXPECT_NEAR(*pieces.at(8), 5.0 - 2.0 / 3, 1e-12);  // 16/3 / n + 11/3
  EXPECT_FALSE(pieces.at(1));
  EXPECT_FALSE(pieces.at(32));
  EXPECT_FALSE(Scalability({{4, 1.0}}).worst_held_out());
}

TEST(Scalability, HeldOutTimesAreWithinFivePercentWhereOneLineIsNot) {
  std::map<int64_t, double> profiled;
  for (const int64_t n : {1, 2, 4, 8, 12, 16, 24, 32, 48, 64}) profiled[n] = layer_ms(n);
  const Scalability pieces(profiled);
  for (const int64_t n : {3, 5, 6, 7, 14, 20, 28, 40, 56}) {
    EXPECT_NEAR(*pieces.at(n), layer_ms(n), kHeldOutError * layer_ms(n)) << n;
  }
  // One line alpha / n + delta over all, by least squares.
  double s = 0, sx = 0, sxx = 0, sy = 0, sxy = 0;
  for (const auto& [n, ms] : profiled) {
    const double x = 1 / static_cast<double>(n);
    s += 1, sx += x, sxx += x * x, sy += ms, sxy += x * ms;
  }
  const double alpha = (s * sxy - sx * sy) / (s * sxx - sx * sx), delta = (sy - alpha * sx) / s;
  EXPECT_GT(std::abs(alpha / 8 + delta - layer_ms(8)), 2 * kHeldOutError * layer_ms(8));
}

TEST(Scalability, TheHeldOutCheckNamesTheWorst) {
  std::map<int64_t, double> profiled = {{1, 16.0}, {2, 8.0}, {4, 4.0}, {8, 2.0}};
  EXPECT_LT(Scalability(profiled).worst_held_out()->error, 1e-12);
  profiled[4] = 5;
  const auto worst = Scalability(profiled).worst_held_out();
  EXPECT_EQ(worst->ranks, 4);
  EXPECT_NEAR(worst->error, 0.2, 1e-12);  // 4 where 5 was measured
}

TEST(Scalability, TimesAreFilledInWhereTheBatchDivides) {
  const std::map<int64_t, double> profiled = {{2, 12.0}, {6, 4.0}, {12, 2.0}};
  const auto all = all_times(profiled, 12, 2, 100);
  std::vector<int64_t> ranks;
  for (const auto& [n, ms] : all) ranks.push_back(n);
  EXPECT_EQ(ranks, (std::vector<int64_t>{2, 4, 6, 12}));  // 3 is no multiple, 8 and 10 do not divide
  EXPECT_NEAR(all.at(4), 6, 1e-12);
  EXPECT_EQ(all_times(profiled, 1, 1, 100), profiled);
  EXPECT_EQ(all_times(profiled, 12, 1, 3).size(), 4U);  // 3 as well
}

}  // namespace
}  // namespace unigrpo::planner

#include "grpo/advantages.h"

#include <cmath>
#include <limits>
#include <stdexcept>

#include <gtest/gtest.h>

namespace unigrpo::grpo {
namespace {

using Values = std::vector<std::optional<double>>;

reward::ScoreTable table_of(const Values& values) {
  reward::ScoreTable table{{"r"}, {1.0}, {}};
  for (const auto& value : values) table.scores.push_back({{value, "", {}}});
  return table;
}

TEST(Advantages, AreCentredAndScaledWithinEachGroup) {
  const std::vector<int64_t> ids{7, 3, 7, 3};  // interleaved, not from 0
  const auto out = compute_advantages({.eps = 0}, table_of({1.0, 10.0, 3.0, 30.0}), ids);
  EXPECT_EQ(out.values, (std::vector<double>{-1, -1, 1, 1}));
  EXPECT_EQ(out.keep, (std::vector<bool>{true, true, true, true}));
  EXPECT_EQ(out.num_groups, 2);
  EXPECT_EQ(out.zero_std_ratio(), 0);
}

TEST(Advantages, AGroupWithoutSpreadHasNone) {
  const double third = 0.1 + 0.2;  // 0.30000000000000004: alike up to rounding
  const std::vector<int64_t> ids{0, 0, 0, 1, 1, 1};
  const auto table = table_of({0.3, third, 0.3, 0.0, 1.0, 0.5});
  const auto kept = compute_advantages({.zero_std = ZeroStd::keep}, table, ids);
  EXPECT_EQ(kept.values[0], 0);
  EXPECT_EQ(kept.values[1], 0);
  EXPECT_TRUE(kept.keep[0]);
  EXPECT_EQ(kept.zero_std_group_ids, (std::vector<int64_t>{0}));
  EXPECT_DOUBLE_EQ(kept.zero_std_ratio(), 0.5);
  const auto dropped = compute_advantages({.zero_std = ZeroStd::drop}, table, ids);
  EXPECT_EQ(dropped.keep, (std::vector<bool>{false, false, false, true, true, true}));
  EXPECT_EQ(dropped.num_dropped, 0);  // not for want of a score
}

TEST(Advantages, AMissingScoreLeavesTheStatistics) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const std::optional<double> missing : {std::optional<double>(), std::optional(nan)}) {
    const std::vector<int64_t> ids{0, 0, 0};
    const auto out = compute_advantages({.eps = 0}, table_of({1.0, missing, 3.0}), ids);
    EXPECT_EQ(out.values, (std::vector<double>{-1, 0, 1}));
    EXPECT_EQ(out.keep, (std::vector<bool>{true, false, true}));
    EXPECT_EQ(out.num_dropped, 1);
    EXPECT_EQ(out.num_dropped_groups, 0);
    EXPECT_FALSE(out.rewards[1].has_value());
  }
}

TEST(Advantages, DropGroupTakesTheWholeGroup) {
  const std::vector<int64_t> ids{0, 0, 0, 1, 1};
  const auto out = compute_advantages({.eps = 0}, table_of({1.0, {}, 3.0, 1.0, 2.0}), ids,
                                      reward::OnError::drop_group);
  EXPECT_EQ(out.keep, (std::vector<bool>{false, false, false, true, true}));
  EXPECT_EQ(out.num_dropped, 3);
  EXPECT_EQ(out.num_dropped_groups, 1);
  EXPECT_TRUE(out.rewards[0].has_value());  // it had a score; it is logged
}

TEST(Advantages, AGroupWithFewerThanTwoScoresIsSkipped) {
  const std::vector<int64_t> ids{0, 0, 0, 1, 1};
  const auto out = compute_advantages({}, table_of({1.0, {}, {}, 1.0, 2.0}), ids);
  EXPECT_EQ(out.keep, (std::vector<bool>{false, false, false, true, true}));
  EXPECT_EQ(out.num_dropped_groups, 1);
  EXPECT_EQ(out.num_zero_std_groups(), 0);  // dropped, not spreadless
  EXPECT_EQ(out.values[0], 0);
}

TEST(Advantages, StayFiniteForAnyScores) {
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<int64_t> ids{0, 0, 0, 0};
  for (const auto normalization :
       {Normalization::group_std, Normalization::none, Normalization::global_std}) {
    for (const auto combine : {Combine::sum_then_normalize, Combine::normalize_then_sum}) {
      const auto out = compute_advantages(
          {.normalization = normalization, .combine = combine, .eps = 0, .ddof = 1},
          table_of({inf, -inf, 0.5, 0.5}), ids);
      for (const double value : out.values) EXPECT_TRUE(std::isfinite(value));
      EXPECT_EQ(out.num_dropped, 2);
    }
  }
}

TEST(Advantages, NormalizeThenSumGivesEachTermItsWeight) {
  // A term in units a thousand times larger does not drown the other.
  const reward::ScoreTable table{{"a", "b"},
                                 {1.0, 1.0},
                                 {{{1.0, "", {}}, {0.0, "", {}}}, {{0.0, "", {}}, {1000.0, "", {}}}}};
  const std::vector<int64_t> ids{0, 0};
  const auto summed = combined_advantages(
      {.combine = Combine::normalize_then_sum, .eps = 0}, table, ids);
  EXPECT_NEAR(summed[0], 0, 1e-12);
  const auto drowned = combined_advantages({.eps = 0}, table, ids);
  EXPECT_NEAR(drowned[0], -1, 1e-12);
}

TEST(Advantages, EverySampleNeedsAGroup) {
  const std::vector<int64_t> ids{0};
  EXPECT_THROW(compute_advantages({}, table_of({1.0, 2.0}), ids), std::invalid_argument);
}

}  // namespace
}  // namespace unigrpo::grpo

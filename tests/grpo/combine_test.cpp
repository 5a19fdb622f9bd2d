#include "grpo/combine.h"

#include <limits>
#include <stdexcept>

#include <gtest/gtest.h>

namespace unigrpo::grpo {
namespace {

reward::Score score(std::optional<double> value) { return {value, "", {}}; }

TEST(CombinedRewards, IsTheWeightedSum) {
  const reward::ScoreTable table{{"a", "b"}, {0.5, 2.0}, {{score(1.0), score(0.25)}}};
  EXPECT_DOUBLE_EQ(combined_rewards(table).at(0).value(), 1.0);
}

TEST(CombinedRewards, AMissingTermLeavesTheSampleWithoutReward) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const reward::ScoreTable table{{"a", "b"},
                                 {1.0, 1.0},
                                 {{score(1.0), score(std::nullopt)},
                                  {score(nan), score(0.5)},
                                  {score(0.5), score(inf)},
                                  {score(0.5), score(0.5)}}};
  const auto rewards = combined_rewards(table);
  EXPECT_FALSE(rewards[0].has_value());
  EXPECT_FALSE(rewards[1].has_value());
  EXPECT_FALSE(rewards[2].has_value());
  EXPECT_EQ(rewards[3], 1.0);
}

TEST(CombinedRewards, ATermOfWeightZeroMayBeMissing) {
  const reward::ScoreTable table{{"a", "watched"}, {1.0, 0.0}, {{score(0.5), score({})}}};
  EXPECT_EQ(combined_rewards(table)[0], 0.5);
}

TEST(CombinedRewards, RowsMustHaveOneScoreATerm) {
  const reward::ScoreTable table{{"a", "b"}, {1.0, 1.0}, {{score(0.5)}}};
  EXPECT_THROW(combined_rewards(table), std::invalid_argument);
}

}  // namespace
}  // namespace unigrpo::grpo

#include "grpo/combine.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "base/error.h"

namespace unigrpo::grpo {
namespace {

reward::Score score(std::optional<double> value) { return {value, "", {}}; }

TEST(CombinedRewards, IsTheWeightedSum) {
  const reward::ScoreTable table{{"a", "b"}, {0.5, 2.0}, {}, {{score(1.0), score(0.25)}}};
  EXPECT_DOUBLE_EQ(combined_rewards(table).at(0).value(), 1.0);
}

TEST(CombinedRewards, AMissingTermLeavesTheSampleWithoutReward) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const reward::ScoreTable table{{"a", "b"},
                                 {1.0, 1.0},
                                 {},
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
  const reward::ScoreTable table{{"a", "watched"}, {1.0, 0.0}, {}, {{score(0.5), score({})}}};
  EXPECT_EQ(combined_rewards(table)[0], 0.5);
}

TEST(CombinedRewards, RowsMustHaveOneScoreATerm) {
  const reward::ScoreTable table{{"a", "b"}, {1.0, 1.0}, {}, {{score(0.5)}}};
  EXPECT_THROW(combined_rewards(table), std::invalid_argument);
}

reward::ScoreTable two_terms(std::vector<std::pair<std::optional<double>, std::optional<double>>> rows) {
  reward::ScoreTable table{{"a", "b"}, {1.0, 1.0}, {}, {}};
  for (const auto& [a, b] : rows) table.scores.push_back({score(a), score(b)});
  return table;
}

TEST(ShapedScores, AGateLetsAScoreCountOnlyWhereTheOtherPasses) {
  const std::vector<reward::TermConfig> terms{{.name = "a", .gate = "b", .gate_min = 0.5}, {.name = "b"}};
  RunningStatistics statistics;
  const auto out = shaped_scores(terms, two_terms({{0.7, 0.5}, {0.7, 0.4}, {0.7, {}}}), 0.9, 0, statistics);
  EXPECT_EQ(out.scores[0][0].value, 0.7);
  EXPECT_EQ(out.scores[1][0].value, 0.0);
  EXPECT_FALSE(out.scores[2][0].value);
  EXPECT_EQ(out.scores[2][0].reason, "its gate 'b' has no score");
  EXPECT_EQ(out.scores[1][1].value, 0.4);
}

TEST(ShapedScores, ScaleAndClipComeBeforeTheGateLooksAtTheOthersOwnScore) {
  const std::vector<reward::TermConfig> terms{{.name = "a", .clip = 1.5, .gate = "b", .gate_min = 10},
                                              {.name = "b", .scale = reward::TermScale::running}};
  RunningStatistics statistics;
  const auto out = shaped_scores(terms, two_terms({{-7, 10.0}, {1, 30.0}}), 0.5, 0, statistics);
  EXPECT_EQ(out.scores[0][0].value, -1.5);
  EXPECT_EQ(out.scores[0][1].value, -1.0);  // mean 20, std 10
  EXPECT_EQ(out.scores[1][1].value, 1.0);
  // mean 0.5 * 20 + 0.5 * 40 = 30, mean square 0.5 * 500 + 0.5 * 1600 = 1050, std sqrt(150)
  const auto next = shaped_scores(terms, two_terms({{0, 40.0}, {0, 40.0}}), 0.5, 0, statistics);
  EXPECT_NEAR(*next.scores[0][1].value, 10 / std::sqrt(150.0), 1e-12);
}

TEST(RunningStatistics, StateGoesOnWhereItStood) {
  RunningStatistics one, two;
  const std::vector<double> first{1, 2, 4}, second{-3, 0.1};
  one.observe("x", first, 0.9);
  two.load_state(one.state(), "here");
  const auto a = one.observe("x", second, 0.9), b = two.observe("x", second, 0.9);
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.variance, b.variance);
  EXPECT_THROW(two.load_state({.tensors = {{"x", at::zeros({3}, at::kDouble)}}}, "here"), BadInput);
}

}  // namespace
}  // namespace unigrpo::grpo

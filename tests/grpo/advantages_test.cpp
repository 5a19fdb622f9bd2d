#include "grpo/advantages.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

namespace unigrpo::grpo {
namespace {

using Values = std::vector<std::optional<double>>;

reward::ScoreTable table_of(const Values& values) {
  reward::ScoreTable table{{"r"}, {1.0}, {}, {}};
  for (const auto& value : values) table.scores.push_back({{value, "", {}}});
  return table;
}

TEST(Advantages, AreCentredAndScaledWithinEachGroup) {
  const std::vector<int64_t> ids{7, 3, 7, 3};  // interleaved, not from 0
  const auto out = compute_advantages({.eps = 0}, table_of({1.0, 10.0, 3.0, 30.0}), ids);
  EXPECT_EQ(out.text, (std::vector<double>{-1, -1, 1, 1}));
  EXPECT_EQ(out.keep, (std::vector<bool>{true, true, true, true}));
  EXPECT_EQ(out.num_groups, 2);
  EXPECT_EQ(out.zero_std_ratio(), 0);
}

TEST(Advantages, AGroupWithoutSpreadHasNone) {
  const double third = 0.1 + 0.2;  // 0.30000000000000004: alike up to rounding
  const std::vector<int64_t> ids{0, 0, 0, 1, 1, 1};
  const auto table = table_of({0.3, third, 0.3, 0.0, 1.0, 0.5});
  const auto kept = compute_advantages({.zero_std = ZeroStd::keep}, table, ids);
  EXPECT_EQ(kept.text[0], 0);
  EXPECT_EQ(kept.text[1], 0);
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
    EXPECT_EQ(out.text, (std::vector<double>{-1, 0, 1}));
    EXPECT_EQ(out.keep, (std::vector<bool>{true, false, true}));
    EXPECT_EQ(out.num_dropped, 1);
    EXPECT_EQ(out.num_dropped_groups, 0);
    EXPECT_FALSE(out.rewards[1].has_value());
  }
}

TEST(Advantages, DropGroupTakesTheWholeGroup) {
  const std::vector<int64_t> ids{0, 0, 0, 1, 1};
  const auto out = compute_advantages({.eps = 0}, table_of({1.0, {}, 3.0, 1.0, 2.0}), ids, reward::OnError::drop_group);
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
  EXPECT_EQ(out.text[0], 0);
}

TEST(Advantages, StayFiniteForAnyScores) {
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<int64_t> ids{0, 0, 0, 0};
  for (const auto normalization : {Normalization::group_std, Normalization::none, Normalization::global_std}) {
    for (const auto combine : {Combine::sum_then_normalize, Combine::normalize_then_sum}) {
      const auto out = compute_advantages({.normalization = normalization, .combine = combine, .eps = 0, .ddof = 1},
                                          table_of({inf, -inf, 0.5, 0.5}), ids);
      for (const double value : out.text) EXPECT_TRUE(std::isfinite(value));
      EXPECT_EQ(out.num_dropped, 2);
    }
  }
}

TEST(Advantages, NormalizeThenSumGivesEachTermItsWeight) {
  // A term in units a thousand times larger does not drown the other.
  const reward::ScoreTable table{
      {"a", "b"}, {1.0, 1.0}, {}, {{{1.0, "", {}}, {0.0, "", {}}}, {{0.0, "", {}}, {1000.0, "", {}}}}};
  const std::vector<int64_t> ids{0, 0};
  const auto summed = combined_advantages({.combine = Combine::normalize_then_sum, .eps = 0}, table, ids);
  EXPECT_NEAR(summed[0], 0, 1e-12);
  const auto drowned = combined_advantages({.eps = 0}, table, ids);
  EXPECT_NEAR(drowned[0], -1, 1e-12);
}

/// Rows of scores under terms of weight 1.
reward::ScoreTable table_of_rows(const std::vector<std::vector<double>>& rows,
                                 std::vector<reward::Modality> modality = {}) {
  reward::ScoreTable table;
  for (size_t k = 0; k < rows.front().size(); ++k) table.terms.push_back(std::string(1, static_cast<char>('a' + k)));
  table.weights.assign(table.terms.size(), 1.0);
  table.modality = std::move(modality);
  for (const auto& row : rows) {
    auto& scores = table.scores.emplace_back();
    for (const double value : row) scores.push_back({value, "", {}});
  }
  return table;
}

TEST(Advantages, ATermDrivesTextOrImageAlone) {
  using reward::Modality;
  const std::vector<int64_t> ids{0, 0, 1, 1};
  for (const auto combine : {Combine::sum_then_normalize, Combine::normalize_then_sum}) {
    const auto out =
        compute_advantages({.combine = combine, .eps = 0},
                           table_of_rows({{0, 5}, {1, 3}, {2, 7}, {4, 7}}, {Modality::text, Modality::image}), ids);
    EXPECT_EQ(out.text, (std::vector<double>{-1, 1, -1, 1}));
    EXPECT_EQ(out.image, (std::vector<double>{1, -1, 0, 0}));
    EXPECT_EQ(out.num_zero_std_groups(), 0);  // the second group's texts have a signal
    EXPECT_EQ(out.rewards[0], 5.0);           // the logged reward is the sum of all
  }
}

TEST(Advantages, NormalizeBatchGivesOneStandardDeviationOverall) {
  const std::vector<int64_t> ids{0, 0, 1, 1, 2, 2};
  const auto out = compute_advantages({.normalization = Normalization::none, .normalize_batch = true, .eps = 0},
                                      table_of_rows({{0}, {1}, {0}, {10}, {3}, {3}}), ids);
  double square = 0;
  for (const double a : out.text) square += a * a / 6;
  EXPECT_NEAR(square, 1, 1e-12);
  EXPECT_NEAR(out.text[3] / out.text[1], 10, 1e-12);
  EXPECT_EQ(out.text[4], 0);
}

TEST(Advantages, OnlyTheEndsOfAGroupStay) {
  const std::vector<int64_t> ids{0, 0, 0, 0, 0};
  const auto out =
      compute_advantages({.top_k = 1, .bottom_k = 2, .eps = 0}, table_of_rows({{3}, {1}, {5}, {2}, {4}}), ids);
  EXPECT_EQ(out.keep, (std::vector<bool>{false, true, true, true, false}));
  const auto whole = compute_advantages({.eps = 0}, table_of_rows({{3}, {1}, {5}, {2}, {4}}), ids);
  EXPECT_EQ(out.text, whole.text);  // the statistics are the whole group's
  EXPECT_EQ(out.num_dropped, 0);
}

TEST(Advantages, APromptsStatisticsOutliveTheStep) {
  const AdvantageConfig config{.statistics = StatisticsOf::prompt, .decay = 0.5, .eps = 0};
  const std::vector<int64_t> ids{0, 0};
  const std::vector<std::string> prompts{"cat", "cat"};
  const auto first =
      compute_advantages(config, table_of_rows({{0}, {2}}), ids, reward::OnError::drop_sample, {}, prompts);
  EXPECT_EQ(first.text, (std::vector<double>{-1, 1}));
  // mean 0.5 * 1 + 0.5 * 3 = 2, mean square 0.5 * 2 + 0.5 * 9 = 5.5: std sqrt(1.5). Alike, and yet better than before.
  const auto second = compute_advantages(config, table_of_rows({{3}, {3}}), ids, reward::OnError::drop_sample, {},
                                         prompts, first.statistics);
  EXPECT_NEAR(second.text[0], 1 / std::sqrt(1.5), 1e-12);
  EXPECT_EQ(second.num_zero_std_groups(), 0);
  const std::vector<std::string> others{"dog", "dog"};
  const auto other = compute_advantages(config, table_of_rows({{3}, {3}}), ids, reward::OnError::drop_sample, {},
                                        others, first.statistics);
  EXPECT_EQ(other.num_zero_std_groups(), 1);
}

TEST(Advantages, RunningStatisticsAreTheBatchesTogether) {
  const AdvantageConfig config{.statistics = StatisticsOf::running, .eps = 0};
  const std::vector<int64_t> ids{0, 0, 1, 1};
  const auto out = compute_advantages(config, table_of_rows({{0}, {0}, {2}, {2}}), ids);
  EXPECT_EQ(out.text, (std::vector<double>{-1, -1, 1, 1}));  // the groups have no spread, the batch has
}

TEST(Advantages, ThoseOfImagesAreClipped) {
  const std::vector<int64_t> ids{0, 0, 0, 0, 0, 0};
  const auto table = table_of_rows({{0}, {0}, {0}, {0}, {0}, {9}});
  const auto plain = compute_advantages({.clip = 0}, table, ids), clipped = compute_advantages({.clip = 1}, table, ids);
  EXPECT_GT(plain.image[5], 2);
  EXPECT_EQ(clipped.image[5], 1);
  EXPECT_EQ(clipped.image[0], plain.image[0]);
  EXPECT_EQ(clipped.text, plain.text);
  std::vector<double> both{-9, 0.5, 9};
  clip_advantages(5, both);
  EXPECT_EQ(both, (std::vector<double>{-5, 0.5, 5}));
}

TEST(Advantages, ATruncatedTextIsTrainedOnMaskedOrPenalized) {
  EXPECT_TRUE(trains_on(Truncated::train, false));
  EXPECT_TRUE(trains_on(Truncated::penalize, false));
  EXPECT_FALSE(trains_on(Truncated::mask, false));
  for (const Truncated rule : {Truncated::train, Truncated::mask, Truncated::penalize}) {
    EXPECT_TRUE(trains_on(rule, true));
  }
}

/// The advantages of truncated texts where the first of three samples of each group has one.
Advantages penalized(const AdvantageConfig& config, const std::vector<std::vector<double>>& rewards) {
  std::vector<int64_t> ids;
  std::vector<bool> truncated;
  for (size_t n = 0; n < rewards.size(); ++n) {
    ids.push_back(static_cast<int64_t>(n / 3));
    truncated.push_back(n % 3 == 0);
  }
  return compute_advantages(config, table_of_rows(rewards), ids, reward::OnError::drop_sample, {}, {}, {}, truncated);
}

TEST(Advantages, APenalizedTextIsOneStandardDeviationBelowItsGroupUnderEachNormalization) {
  const std::vector<std::vector<double>> rewards{{4}, {2}, {0}, {0}, {9}, {3}};
  const double first = std::sqrt(8.0 / 3), second = std::sqrt(14.0);
  double all = 0;
  for (const auto& reward : rewards) all += (reward[0] - 3) * (reward[0] - 3) / 6;
  for (const auto& [normalization, unit] : {std::pair(Normalization::group_std, 0.0),
                                            {Normalization::none, 1.0},
                                            {Normalization::global_std, std::sqrt(all)}}) {
    const Advantages out = penalized({.normalization = normalization, .eps = 0}, rewards);
    EXPECT_NEAR(out.of_text(0, false), unit == 0 ? -1 : -first / unit, 1e-12) << enum_name(normalization);
    EXPECT_GT(out.of_text(0, true), 0);                              // another of its texts that ended by itself
    EXPECT_LT(out.of_text(3, false), out.of_text(0, false) - 0.01);  // the worst of its group: worse than that
    EXPECT_NEAR(out.of_text(3, false), unit == 0 ? -4 / second : -4 / unit, 1e-12);
    EXPECT_EQ(out.image, compute_advantages({.normalization = normalization, .eps = 0}, table_of_rows(rewards),
                                            std::vector<int64_t>{0, 0, 0, 1, 1, 1})
                             .image);
  }
}

TEST(Advantages, APenalizedTextIsASignalInAGroupWithoutSpread) {
  for (const ZeroStd rule : {ZeroStd::keep, ZeroStd::drop}) {
    const Advantages out = penalized({.eps = 0, .zero_std = rule}, {{1}, {1}, {1}, {0}, {2}, {4}});
    EXPECT_EQ(out.num_zero_std_groups(), 0);
    EXPECT_TRUE(out.keep[0] && out.keep[1] && out.keep[2]);
    EXPECT_EQ(out.of_text(0, false), -1);
    EXPECT_EQ(out.of_text(1, true), 0);
  }
  // Without a deviation of its own, that of the batch's advantages; without one there, 1.
  const Advantages out = penalized({.normalization = Normalization::none}, {{1}, {1}, {1}, {0}, {2}, {4}});
  EXPECT_NEAR(out.of_text(0, false), -std::sqrt(8.0 / 6), 1e-12);
  EXPECT_EQ(penalized({.normalization = Normalization::none}, {{1}, {1}, {1}}).of_text(0, false), -1);
  EXPECT_EQ(penalized({.normalization = Normalization::global_std}, {{1}, {1}, {1}}).of_text(0, false), -1);
}

TEST(Advantages, EqualRewardsHaveNoSpreadHoweverTheyWereSummed) {
  const std::vector<int64_t> ids(12, 0);
  const std::vector<std::string> prompts(12, "a");
  for (const double reward : {0.7, 0.1, 1e-13, -3.3e9}) {
    for (const StatisticsOf of : {StatisticsOf::group, StatisticsOf::prompt, StatisticsOf::running}) {
      for (const Normalization how : {Normalization::group_std, Normalization::none, Normalization::global_std}) {
        for (const double eps : {0.0, 1e-4}) {
          const AdvantageConfig config{.normalization = how, .statistics = of, .eps = eps, .zero_std = ZeroStd::drop};
          const std::vector<std::vector<double>> rows(12, {reward});
          RunningStatistics statistics;
          for (int step = 0; step < 3; ++step) {
            const auto out = compute_advantages(config, table_of_rows(rows), ids, reward::OnError::drop_sample, {},
                                                prompts, statistics);
            EXPECT_EQ(out.num_zero_std_groups(), 1) << reward << " " << enum_name(of) << " " << enum_name(how);
            EXPECT_EQ(out.text, std::vector<double>(12, 0.0));
            statistics = out.statistics;
          }
        }
      }
    }
  }
}

TEST(Advantages, OnlyTheRoundingOfWhatWasAddedUpIsNoSpread) {
  const std::vector<int64_t> ids{0, 0, 0};
  // 0.3 - 0.3 in three orders: 0, 5.6e-17 and 0. Scores that nearly cancel leave their rounding behind.
  const auto cancelled =
      compute_advantages({.eps = 0}, table_of_rows({{0.3, -0.3}, {0.1 + 0.2, -0.3}, {0.3, -0.3}}), ids);
  EXPECT_EQ(cancelled.num_zero_std_groups(), 1);
  const auto small = compute_advantages({.eps = 0}, table_of_rows({{1e-13}, {2e-13}, {3e-13}}), ids);
  EXPECT_EQ(small.num_zero_std_groups(), 0);  // small, and yet apart
  EXPECT_NEAR(small.text[2], std::sqrt(1.5), 1e-6);
  const auto large = compute_advantages({.eps = 0}, table_of_rows({{1e9 + 0.1}, {1e9 + 0.2}, {1e9 + 0.3}}), ids);
  EXPECT_EQ(large.num_zero_std_groups(), 0);
  AdvantageConfig two{.combine = Combine::normalize_then_sum, .eps = 0};
  const auto opposed = compute_advantages(two, table_of_rows({{0.1, 0.3}, {0.2, 0.2}, {0.3, 0.1}}), ids);
  EXPECT_EQ(opposed.num_zero_std_groups(), 1);  // one term's advantage takes away the other's
}

TEST(Advantages, EverySampleNeedsAGroup) {
  const std::vector<int64_t> ids{0};
  EXPECT_THROW(compute_advantages({}, table_of({1.0, 2.0}), ids), std::invalid_argument);
}

TEST(Advantages, OfTasksStandBehindEachOther) {
  const std::vector<int64_t> ids{0, 0, 1, 1};
  const auto one = compute_advantages({}, table_of_rows({{1}, {2}, {3}, {3}}), ids);
  const auto two = compute_advantages({}, table_of_rows({{5}, {5}, {100}, {300}}), ids);
  Advantages all;
  append(one, 0, all);
  append(two, 2, all);
  EXPECT_EQ(all.text.size(), 8U);
  EXPECT_EQ(all.text[1], one.text[1]);
  EXPECT_EQ(all.image[7], two.image[3]);
  EXPECT_EQ(all.rewards[6], 100);
  EXPECT_EQ(all.zero_std_group_ids, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(all.num_groups, 4);
  EXPECT_EQ(all.zero_std_ratio(), 0.5);
  EXPECT_EQ(all.keep, std::vector<bool>(8, true));
}

/// Two groups of two clips, judged by what concerns the video, the sound, and both.
reward::ScoreTable clip_table() {
  using enum reward::Stream;
  reward::ScoreTable table{.terms = {"camera", "pitch", "sync"},
                           .weights = {1, 2, 4},
                           .scores = {},
                           .streams = {{video}, {audio}, {video, audio}}};
  for (const std::vector<double>& row : {std::vector<double>{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0, 0, 0}}) {
    auto& scores = table.scores.emplace_back();
    for (const double value : row) scores.push_back({value, "", {}});
  }
  return table;
}

TEST(ClipAdvantages, AreRoutedToTheStreamsThatTermsJudge) {
  const std::vector<int64_t> ids{0, 0, 1, 1};
  for (const Combine combine : {Combine::sum_then_normalize, Combine::normalize_then_sum}) {
    const AdvantageConfig config{.combine = combine, .eps = 0};
    const bool summed = combine == Combine::normalize_then_sum;
    const auto out = compute_advantages(config, clip_table(), ids, reward::OnError::drop_sample, {}, {}, {}, {},
                                        StreamAdvantage::routed);
    // A_m = sum over the terms routed to m of w (r - mean) / std: with two samples a group +-1.
    const double w_pitch = summed ? 2 : 1, w_sync = summed ? 4 : 1;
    EXPECT_EQ(out.video, (std::vector<double>{1, -1, w_sync, -w_sync}));
    EXPECT_EQ(out.audio, (std::vector<double>{-w_pitch, w_pitch, w_sync, -w_sync}));
    EXPECT_EQ(out.text, (std::vector<double>(4, 0.0)));
    EXPECT_EQ(out.image, (std::vector<double>(4, 0.0)));
    EXPECT_EQ(out.num_zero_std_groups(), 0);
  }
}

TEST(ClipAdvantages, SharedOnesAreOfAllTerms) {
  const std::vector<int64_t> ids{0, 0, 1, 1};
  const auto out = compute_advantages({.combine = Combine::normalize_then_sum, .eps = 0}, clip_table(), ids,
                                      reward::OnError::drop_sample, {}, {}, {}, {}, StreamAdvantage::shared);
  EXPECT_EQ(out.video, (std::vector<double>{-1, 1, 4, -4}));
  EXPECT_EQ(out.audio, out.video);
}

TEST(ClipAdvantages, ATermThatAPromptDoesNotAskForLeavesTheOthersAlone) {
  const std::vector<int64_t> ids{0, 0, 1, 1};
  auto table = clip_table();
  reward::Score nothing{std::nullopt, "the prompt asks for no contact", {}};
  nothing.asked = false;
  for (size_t n = 0; n < 2; ++n) table.scores[n][2] = nothing;
  for (const Combine combine : {Combine::sum_then_normalize, Combine::normalize_then_sum}) {
    const auto out = compute_advantages({.combine = combine, .eps = 0}, table, ids, reward::OnError::drop_group, {}, {},
                                        {}, {}, StreamAdvantage::routed);
    EXPECT_EQ(out.keep, (std::vector<bool>(4, true)));
    EXPECT_EQ(out.num_dropped, 0);
    EXPECT_EQ(out.video[0], 1);
    EXPECT_EQ(out.rewards[1], 2.0);
  }
  // A sample of which nothing is asked has no reward, which is not 0.
  for (auto& row : table.scores) {
    for (reward::Score& score : row) score = nothing;
  }
  const auto out =
      compute_advantages({}, table, ids, reward::OnError::drop_sample, {}, {}, {}, {}, StreamAdvantage::routed);
  EXPECT_FALSE(out.rewards[0].has_value());
  EXPECT_EQ(out.num_dropped, 4);
}

}  // namespace
}  // namespace unigrpo::grpo

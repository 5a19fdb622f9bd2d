#include "rollout/deal.h"

#include <gtest/gtest.h>

#include <set>
#include <utility>

namespace unigrpo::rollout {
namespace {

TEST(Deal, EverySampleIsOneRanksAndNoRankHasMuchMoreThanItsShare) {
  for (const int64_t prompts : {1, 2, 5, 7}) {
    for (const int64_t group : {1, 3, 4}) {
      for (int64_t ranks = 1; ranks <= 17; ++ranks) {
        std::set<std::pair<int64_t, int64_t>> dealt;
        for (int64_t rank = 0; rank < ranks; ++rank) {
          const Deal deal{.num_prompts = prompts, .group_size = group, .rank = rank, .num_ranks = ranks};
          const auto ranges = ranges_of(deal);
          ASSERT_EQ(ranges.size(), static_cast<size_t>(prompts));
          for (int64_t p = 0; p < prompts; ++p) {
            for (int64_t g = 0; g < ranges[p].count; ++g) {
              EXPECT_TRUE(dealt.emplace(p, ranges[p].first + g).second) << prompts << group << ranks;
            }
            EXPECT_TRUE(cuts_groups(deal) || ranges[p].count == 0 || ranges[p].count == group);
          }
        }
        EXPECT_EQ(dealt.size(), static_cast<size_t>(prompts * group));
        EXPECT_EQ(dealt.rbegin()->second, group - 1);
      }
    }
  }
}

TEST(Deal, WholeGroupsGoRoundTheRanks) {
  const auto ranges = ranges_of({.num_prompts = 5, .group_size = 3, .rank = 1, .num_ranks = 2});
  const SampleRange none, all{.first = 0, .count = 3};
  EXPECT_EQ(ranges, (std::vector<SampleRange>{none, all, none, all, none}));
}

TEST(Deal, WhereRanksOutnumberPromptsAGroupIsCutOrNot) {
  const auto of = [](int64_t rank) { return Deal{.num_prompts = 5, .group_size = 4, .rank = rank, .num_ranks = 6}; };
  EXPECT_EQ(ranges_of(of(0))[0], (SampleRange{.first = 0, .count = 2}));
  EXPECT_EQ(ranges_of(of(5))[0], (SampleRange{.first = 2, .count = 2}));
  EXPECT_EQ(ranges_of(of(4))[4], (SampleRange{.first = 0, .count = 4}));
  EXPECT_EQ(whole_groups(of(0))[0], (SampleRange{.first = 0, .count = 4}));
  EXPECT_EQ(whole_groups(of(5)), std::vector<SampleRange>(5));
}

}  // namespace
}  // namespace unigrpo::rollout

#include "planner/flexible_sequence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/rng.h"
#include "planner/milp.h"

namespace unigrpo::planner {
namespace {

SequenceCost cost_7b() {
  SequenceCost cost{
      .alpha1 = 5.128e-6, .alpha2 = 0.1839576, .beta = 62.9, .comm_ms_per_token = {}, .tokens_per_rank = 6450};
  cost.comm_ms_per_token = {{1, 0.0}, {2, 0.0083654}, {4, 0.0048045}, {8, 0.0025907}, {16, 0.0121007}};
  return cost;
}

std::vector<int64_t> random_lengths(RandomStream& random, int64_t count, double scale) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) {
    out.push_back(128 * (1 + static_cast<int64_t>(scale * std::exp(1.1 * random.normal()))));
  }
  return out;
}

/// Why an assignment breaks a rule; empty where it does not.
std::string fault_of(const SequenceCost& cost, const std::vector<Sequence>& sequences, int64_t ranks,
                     const std::vector<SequenceGroup>& groups, double stated) {
  std::set<int64_t> seen;
  int64_t used = 0;
  double slowest = 0;
  for (const SequenceGroup& group : groups) {
    int64_t tokens = 0;
    for (const int64_t j : group.sequences) {
      tokens += sequences[j].length;
      if (!seen.insert(j).second) return "a sequence twice";
    }
    if (group.sequences.empty()) return "an empty group";
    if (tokens > group.degree * cost.tokens_per_rank) return "over the memory";
    used += group.degree;
    slowest = std::max(slowest, group_ms(cost, sequences, group));
  }
  if (seen.size() != sequences.size()) return "a sequence is missing";
  if (used > ranks) return "too many ranks";
  if (std::abs(slowest - stated) > 1e-6 * slowest) return "another time than stated";
  return "";
}

/// Every way to put sequences into groups, every degree of each.
double brute_force(const SequenceCost& cost, const std::vector<Sequence>& sequences, int64_t ranks) {
  double best = std::numeric_limits<double>::infinity();
  std::vector<std::vector<int64_t>> groups;
  const auto degrees = [&](auto&& self, size_t at, int64_t left, double slowest) -> void {
    if (slowest >= best) return;
    if (at == groups.size()) {
      best = slowest;
      return;
    }
    int64_t tokens = 0;
    for (const int64_t j : groups[at]) tokens += sequences[j].length;
    for (const auto& [degree, comm] : cost.comm_ms_per_token) {
      if (degree > left || tokens > degree * cost.tokens_per_rank) continue;
      self(self, at + 1, left - degree, std::max(slowest, group_ms(cost, sequences, {degree, groups[at]})));
    }
  };
  const auto place = [&](auto&& self, size_t j) -> void {
    if (j == sequences.size()) return degrees(degrees, 0, ranks, 0);
    for (size_t g = 0; g < groups.size(); ++g) {
      groups[g].push_back(static_cast<int64_t>(j));
      self(self, j + 1);
      groups[g].pop_back();
    }
    groups.push_back({static_cast<int64_t>(j)});
    self(self, j + 1);
    groups.pop_back();
  };
  place(place, 0);
  return best;
}

TEST(FlexibleSequence, FewSequencesAreOptimal) {
  RandomStream random({.seed = 6});
  for (int round = 0; round < 60; ++round) {
    const auto sequences = full_attention(random_lengths(random, 1 + static_cast<int64_t>(random.below(6)), 30));
    const double want = brute_force(cost_7b(), sequences, 8);
    const auto got = assign_sequences(cost_7b(), sequences, 8);
    ASSERT_EQ(got.has_value(), std::isfinite(want));
    if (!got) continue;
    EXPECT_NEAR(got->milliseconds, want, 1e-9 * want);
    EXPECT_EQ(fault_of(cost_7b(), sequences, 8, got->groups, got->milliseconds), "");
    const double bound = sequence_lower_bound(cost_7b(), sequences, 8);
    EXPECT_LE(bound, want * (1 + 1e-9));
    const double tighter = solver_lower_bound(cost_7b(), sequences, 8, bound, 2 * want);
    EXPECT_LE(tighter, want * (1 + 1e-9));
    EXPECT_GE(tighter, bound);
  }
}

TEST(FlexibleSequence, KeepsItsRulesOnRandomInstances) {
  RandomStream random({.seed = 61});
  for (int round = 0; round < 2000; ++round) {
    const auto count = static_cast<int64_t>(11 + random.below(20));
    const auto sequences = full_attention(random_lengths(random, count, random.uniform(2, 16)));
    const auto got = assign_sequences(cost_7b(), sequences, 16, {.regroupings = 20, .solver = false});
    if (!got) continue;
    ASSERT_EQ(fault_of(cost_7b(), sequences, 16, got->groups, got->milliseconds), "") << round;
    ASSERT_LE(got->lower_bound, got->milliseconds * (1 + 1e-9)) << round;
    if (round % 8 != 0) continue;
    const auto again = assign_sequences(cost_7b(), sequences, 16, {.regroupings = 20, .solver = false});
    for (size_t g = 0; g < got->groups.size(); ++g) ASSERT_EQ(again->groups[g].sequences, got->groups[g].sequences);
  }
}

TEST(FlexibleSequence, StaysNearTheBoundWhereMemoryIsNearlyFull) {
  SequenceCost cost = cost_7b();
  cost.beta = 629.3563;
  cost.comm_ms_per_token[32] = 0.0105;
  cost.comm_ms_per_token[64] = 0.0064;
  for (const uint64_t seed : {1, 2, 3, 4}) {
    for (const double fill : {0.6, 0.9, 0.95}) {
      RandomStream random({.seed = seed});
      const std::vector<int64_t> lengths = random_lengths(random, 512, 5);
      const auto tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
      cost.tokens_per_rank = static_cast<int64_t>(static_cast<double>(tokens) / fill / 64);
      const auto sequences = full_attention(lengths);
      const auto got = assign_sequences(cost, sequences, 64);
      ASSERT_TRUE(got) << seed << " " << fill;
      EXPECT_EQ(fault_of(cost, sequences, 64, got->groups, got->milliseconds), "");
      EXPECT_LE(got->milliseconds, (fill < 0.95 ? 1.03 : 1.06) * got->lower_bound) << seed << " " << fill;
      if (seed > 2 || fill < 0.95) continue;
      const auto best_known = assign_sequences(cost, sequences, 64, {.regroupings = 8 * kRegroupings, .solver = false});
      EXPECT_LE(got->milliseconds, 1.02 * best_known->milliseconds) << seed;
    }
  }
}

TEST(FlexibleSequence, TheGroupsDoNotDependOnTheSolver) {
  RandomStream random({.seed = 12});
  const auto sequences = full_attention(random_lengths(random, 60, 4));
  const auto with = assign_sequences(cost_7b(), sequences, 16),
             without = assign_sequences(cost_7b(), sequences, 16, {.solver = false});
  ASSERT_TRUE(with && without);
  ASSERT_EQ(with->groups.size(), without->groups.size());
  for (size_t g = 0; g < with->groups.size(); ++g) EXPECT_EQ(with->groups[g].sequences, without->groups[g].sequences);
  EXPECT_GE(with->lower_bound, without->lower_bound);
}

TEST(FlexibleSequence, DegreesNeedNotBePowersOfTwo) {
  RandomStream random({.seed = 13});
  SequenceCost cost = cost_7b();
  cost.comm_ms_per_token = {{1, 0.0}, {3, 0.007}, {5, 0.004}, {7, 0.003}};
  for (const int64_t ranks : {5, 7, 11}) {
    for (int round = 0; round < 5; ++round) {
      const auto few = full_attention(random_lengths(random, 5, 20));
      const double want = brute_force(cost, few, ranks);
      const auto exact = assign_sequences(cost, few, ranks);
      ASSERT_EQ(exact.has_value(), std::isfinite(want));
      if (exact) {
        EXPECT_NEAR(exact->milliseconds, want, 1e-9 * want);
      }
      const auto many = full_attention(random_lengths(random, 24, static_cast<double>(ranks) / 2));
      const auto got = assign_sequences(cost, many, ranks);
      if (got) {
        EXPECT_EQ(fault_of(cost, many, ranks, got->groups, got->milliseconds), "");
      }
    }
  }
}

TEST(FlexibleSequence, SequencesWithFewPairsCostLess) {
  std::vector<Sequence> sequences = full_attention({60000});
  const double full = assign_sequences(cost_7b(), sequences, 16)->milliseconds;
  sequences[0].pairs /= 4;
  EXPECT_LT(assign_sequences(cost_7b(), sequences, 16)->milliseconds, full);
}

TEST(FlexibleSequence, SaysWhenMemoryDoesNotDo) {
  EXPECT_FALSE(assign_sequences(cost_7b(), full_attention({6450 * 16 + 1}), 16));
  EXPECT_FALSE(assign_sequences(cost_7b(), full_attention(std::vector<int64_t>(40, 6450)), 16));
  EXPECT_TRUE(assign_sequences(cost_7b(), full_attention({6450 * 16}), 16));
}

TEST(FlexibleSequence, PaddingIsLeastOfAllCuts) {
  RandomStream random({.seed = 8});
  for (int round = 0; round < 40; ++round) {
    std::vector<int64_t> lengths = random_lengths(random, 8, 4);
    std::ranges::sort(lengths);
    int64_t best = std::numeric_limits<int64_t>::max();
    for (int cut = 0; cut < 128; ++cut) {  // a bit between two neighbours: a boundary
      if (std::popcount(static_cast<unsigned>(cut)) != 2) continue;
      int64_t padding = 0;
      for (int i = 7, top = 7; i >= 0; --i) {
        if (i < 7 && (cut >> i & 1)) top = i;
        padding += lengths[top] - lengths[i];
      }
      best = std::min(best, padding);
    }
    EXPECT_EQ(least_padding(lengths, 3), best);
    const std::vector<int64_t> padded = padded_lengths(lengths, 3);
    int64_t padding = 0;
    for (size_t i = 0; i < lengths.size(); ++i) {
      EXPECT_GE(padded[i], lengths[i]);
      padding += padded[i] - lengths[i];
    }
    EXPECT_EQ(padding, best);
    EXPECT_LE(std::set(padded.begin(), padded.end()).size(), 3U);
  }
}

TEST(FlexibleSequence, AStepCoversAllSequences) {
  RandomStream random({.seed = 9});
  const auto sequences = full_attention(random_lengths(random, 60, 20));
  const auto step = assign_step(cost_7b(), sequences, 16);
  ASSERT_TRUE(step);
  std::vector<int64_t> all;
  for (const Assignment& part : *step) {
    for (const SequenceGroup& group : part.groups)
      all.insert(all.end(), group.sequences.begin(), group.sequences.end());
  }
  std::ranges::sort(all);
  std::vector<int64_t> want(60);
  std::iota(want.begin(), want.end(), 0);
  EXPECT_EQ(all, want);
}

TEST(FlexibleSequence, LengthsRefuseKnotsThatDoNotRise) {
  EXPECT_THROW(make_lengths({.ppm = {0, 5, 5, 1000000}, .length = {1, 2, 3, 4}, .count = 1, .limit = 10, .at = {}}),
               BadInput);
  EXPECT_THROW(make_lengths({.ppm = {0, 1000000}, .length = {4, 1}, .count = 1, .limit = 10, .at = {}}), BadInput);
}

}  // namespace
}  // namespace unigrpo::planner

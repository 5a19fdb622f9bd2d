#include "planner/waves.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"

namespace unigrpo::planner {
namespace {

std::vector<MetaOp> random_ops(RandomStream& random, size_t count, int64_t most_layers, int64_t most_ranks) {
  std::vector<MetaOp> out;
  for (size_t m = 0; m < count; ++m) {
    MetaOp& op = out.emplace_back();
    op.name = "op" + std::to_string(m);
    op.layers = 1 + static_cast<int64_t>(random.below(static_cast<uint64_t>(most_layers)));
    const double work = random.uniform(5, 60), fixed = random.uniform(0.1, 1.5);
    for (int64_t n = 1; n <= most_ranks; n *= 2) op.ms[n] = work / static_cast<double>(n) + fixed;
    if (m > 0 && random.chance(0.5)) op.deps.push_back(random.below(m));
  }
  return out;
}

std::string fault_of(const std::vector<MetaOp>& ops, int64_t ranks, const WaveSchedule& schedule) {
  std::vector<int64_t> left;
  for (const MetaOp& op : ops) left.push_back(op.layers);
  double sum = 0;
  for (const Wave& wave : schedule.waves) {
    int64_t used = 0;
    double longest = 0;
    for (const WavePiece& piece : wave) {
      for (const size_t dep : ops[piece.op].deps) {
        if (left[dep] != 0) return "runs too early";
      }
      used += piece.ranks;
      longest = std::max(longest, static_cast<double>(piece.layers) * ops[piece.op].ms.at(piece.ranks));
    }
    for (const WavePiece& piece : wave) left[piece.op] -= piece.layers;
    if (used > ranks) return "too many ranks";
    sum += longest;
  }
  if (std::ranges::any_of(left, [](int64_t n) { return n != 0; })) return "layers do not add up";
  if (std::abs(sum - schedule.milliseconds) > 1e-9 * sum) return "another time than stated";
  if (schedule.lower_bound > sum * (1 + 1e-9)) return "below its bound";
  return "";
}

TEST(Waves, KeepTheirRulesOnRandomGraphs) {
  RandomStream random({.seed = 30});
  for (int round = 0; round < 80; ++round) {
    const auto ops = random_ops(random, 2 + random.below(5), 5, 8);
    const WaveSchedule schedule = schedule_waves(ops, 8);
    ASSERT_EQ(fault_of(ops, 8, schedule), "") << round;
    ASSERT_EQ(schedule_waves(ops, 8).waves, schedule.waves);
  }
}

TEST(Waves, ALargeGraphIsDoneWithinASecondsWork) {
  RandomStream random({.seed = 31});
  const auto ops = random_ops(random, 30, 24, 64);
  const WaveSchedule schedule = schedule_waves(ops, 64);
  EXPECT_EQ(fault_of(ops, 64, schedule), "");
  EXPECT_LT(schedule.milliseconds, 1.35 * schedule.lower_bound);
}

TEST(Waves, SpeedIsConcaveAndRises) {
  // At 3 the speed would make a dent, at 8 it falls.
  const Speed speed({{1, 1.0}, {2, 0.5}, {3, 0.45}, {4, 0.25}, {8, 0.3}});
  EXPECT_EQ(speed.most_ranks(), 4);
  EXPECT_NEAR(speed.ranks_for(3), 3, 1e-12);
  EXPECT_NEAR(speed.ranks_for(0.5), 0.5, 1e-12);
}

TEST(Waves, ACycleIsNamed) {
  std::vector<MetaOp> ops = {{.name = "a", .layers = 1, .ms = {{1, 1.0}}, .deps = {1}},
                             {.name = "b", .layers = 1, .ms = {{1, 1.0}}, .deps = {0}}};
  try {
    schedule_waves(ops, 1);
    FAIL();
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(), "the graph is cyclic: 'a' needs 'b' needs 'a'");
  }
  EXPECT_THROW(contract({{.name = "x", .signature = "s", .deps = {"x"}}}), BadInput);
  EXPECT_THROW(contract({{.name = "x", .signature = "s", .deps = {"y"}}}), BadInput);
}

}  // namespace
}  // namespace unigrpo::planner

#include "planner/waves.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>

#include "base/error.h"
#include "base/rng.h"
#include "planner/wave_fault.h"
#include "planner/wave_search.h"

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

/// The least sum over every sequence of waves, by the rules alone.
double brute_force(const std::vector<MetaOp>& ops, int64_t ranks) {
  std::map<std::vector<int64_t>, double> known;
  std::function<double(const std::vector<int64_t>&)> best = [&](const std::vector<int64_t>& left) -> double {
    if (std::ranges::all_of(left, [](int64_t n) { return n == 0; })) return 0;
    if (const auto found = known.find(left); found != known.end()) return found->second;
    double least = 1e300;
    std::function<void(size_t, int64_t, double, std::vector<int64_t>)> extend =
        [&](size_t m, int64_t free, double longest, std::vector<int64_t> after) {
          if (m == ops.size()) {
            if (after != left) least = std::min(least, longest + best(after));
            return;
          }
          extend(m + 1, free, longest, after);
          if (std::ranges::any_of(ops[m].deps, [&](size_t dep) { return left[dep] != 0; })) return;
          for (const auto& [n, ms] : ops[m].ms) {
            for (int64_t layers = 1; n <= free && layers <= left[m]; ++layers) {
              after[m] = left[m] - layers;
              extend(m + 1, free - n, std::max(longest, static_cast<double>(layers) * ms), after);
            }
          }
        };
    extend(0, ranks, 0, left);
    return known[left] = least;
  };
  std::vector<int64_t> all;
  for (const MetaOp& op : ops) all.push_back(op.layers);
  return best(all);
}

TEST(Waves, TinyGraphsAreOptimal) {
  RandomStream random({.seed = 29});
  for (int round = 0; round < 60; ++round) {
    const auto ops = random_ops(random, 1 + random.below(4), round % 2 == 0 ? 4 : 2, 4);
    const double want = brute_force(ops, 4);
    const WaveSchedule schedule = schedule_waves(ops, 4);
    ASSERT_NEAR(schedule.milliseconds, want, 1e-9 * want) << round;
    ASSERT_LE(schedule.lower_bound, want * (1 + 1e-9)) << round;
  }
}

TEST(Waves, BeamsComeNearTheOptimum) {
  RandomStream random({.seed = 28});
  for (int round = 0; round < 20; ++round) {
    const auto ops = random_ops(random, 5, 4, 8);
    const WaveShape shape(ops, 8);
    const auto exact = exact_waves(shape, 20'000'000);
    ASSERT_TRUE(exact);
    std::vector<Wave> waves = beam_waves(shape, {.width = 16, .tries = 2, .most_lengths = 14});
    improve_waves(shape, waves);
    EXPECT_LE(total_ms(ops, waves), 1.05 * total_ms(ops, *exact)) << round;
    EXPECT_FALSE(exact_waves(shape, 10));  // steps that do not suffice
  }
}

TEST(Waves, TheBoundWeighsPathsAndRanksTogether) {
  // Four layers after each other, 4 ranks: 8 ms on one rank, 5 on two, 3 on four. Alone each bound is less: the path at
  // its quickest takes 12 ms, the work at its cheapest 8.
  std::vector<MetaOp> ops;
  for (size_t m = 0; m < 4; ++m) {
    ops.push_back(
        {.name = std::string(1, static_cast<char>('a' + m)), .layers = 1, .ms = {{1, 8.0}, {2, 5.0}, {4, 3.0}}});
    if (m > 0) ops[m].deps = {m - 1};
  }
  EXPECT_NEAR(allotment_bound(WaveShape(ops, 4)), 12, 1e-6);
  // Two such chains: two ranks each, or all four in turn (24). In 20 ms of two ranks every path is whole and no rank
  // idle.
  const std::vector<MetaOp> once = ops;
  for (const MetaOp& op : once) {
    ops.push_back(op);
    ops.back().name += "2";
    for (size_t& dep : ops.back().deps) dep += 4;
  }
  EXPECT_NEAR(allotment_bound(WaveShape(ops, 4)), 20, 1e-6);
  EXPECT_NEAR(schedule_waves(ops, 4).milliseconds, 20, 1e-9);
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
  EXPECT_LT(schedule.milliseconds, 1.25 * schedule.lower_bound);
  EXPECT_LT(schedule.milliseconds, 1.08 * schedule.level_ideal);
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

#include "planner/choose.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/rng.h"

namespace unigrpo::planner {
namespace {

ChooseProblem random_problem(RandomStream& random, int64_t layers, int64_t kinds, int64_t types, int64_t largest) {
  ChooseProblem problem;
  for (int64_t i = 0; i < layers; ++i) problem.layers.push_back(i * types / layers);
  for (int64_t t = 0; t < types; ++t) {
    auto& memory = problem.memory.emplace_back();
    auto& time = problem.time.emplace_back();
    auto& transition = problem.transition.emplace_back();
    for (int64_t s = 0; s < kinds; ++s) {
      memory.push_back(static_cast<int64_t>(random.below(largest)) + 1);
      time.push_back(random.uniform(1, 6));
      auto& row = transition.emplace_back();
      for (int64_t r = 0; r < kinds; ++r) row.push_back(r == s || random.chance(0.5) ? 0 : random.uniform(0, 1.2));
    }
  }
  problem.budget = static_cast<int64_t>(random.below(layers * largest)) + 1;
  return problem;
}

/// The table of the specification over (layer, MB, strategy): the least cost, infinity where nothing fits.
double table_optimum(const ChooseProblem& p) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  const size_t kinds = p.time.front().size();
  std::vector<std::vector<double>> f(p.budget + 1, std::vector<double>(kinds, 0));
  for (size_t i = 0; i < p.layers.size(); ++i) {
    const int64_t type = p.layers[i];
    auto next = f;
    for (int64_t v = 0; v <= p.budget; ++v) {
      for (size_t s = 0; s < kinds; ++s) {
        double best = kNone;
        if (v >= p.memory[type][s]) {
          for (size_t r = 0; r < kinds; ++r) {
            best = std::min(best, f[v - p.memory[type][s]][r] + (i == 0 ? 0 : p.transition[type][r][s]));
          }
        }
        next[v][s] = best + p.time[type][s];
      }
    }
    f = std::move(next);
  }
  return *std::ranges::min_element(f[p.budget]);
}

TEST(Choose, EqualsTheTableOnTenThousandRandomCases) {
  RandomStream random({.seed = 20});
  for (int round = 0; round < 10000; ++round) {
    const auto layers = static_cast<int64_t>(1 + random.below(6)), kinds = static_cast<int64_t>(1 + random.below(5));
    const ChooseProblem problem = random_problem(random, layers, kinds, static_cast<int64_t>(1 + random.below(2)), 12);
    const double want = table_optimum(problem);
    const auto got = choose_strategies(problem);
    ASSERT_EQ(got.has_value(), std::isfinite(want)) << "round " << round;
    if (!got) continue;
    ASSERT_NEAR(got->cost, want, 1e-9) << "round " << round;
    ASSERT_NEAR(choice_cost(problem, got->strategies), got->cost, 1e-9);
    int64_t memory = 0;
    for (size_t i = 0; i < problem.layers.size(); ++i) memory += problem.memory[problem.layers[i]][got->strategies[i]];
    ASSERT_EQ(memory, got->memory);
    ASSERT_LE(memory, problem.budget);
    ASSERT_EQ(choose_strategies(problem)->strategies, got->strategies);
  }
}

TEST(Choose, TransitionsAreOfTheLattersType) {
  ChooseProblem problem{.layers = {0, 1},
                        .memory = {{1, 1}, {1, 1}},
                        .time = {{1, 5}, {9, 1}},
                        .transition = {{{0, 0}, {0, 0}}, {{0, 3}, {3, 0}}},
                        .budget = 2};
  EXPECT_NEAR(choose_strategies(problem)->cost, 5, 1e-12);  // 1, then 3 + 1
}

TEST(Choose, EqualsTheTableOnALargeCase) {
  RandomStream random({.seed = 7});
  ChooseProblem problem = random_problem(random, 40, 12, 3, 60);
  problem.budget = 900;
  const auto got = choose_strategies(problem);
  ASSERT_TRUE(got);
  EXPECT_NEAR(got->cost, table_optimum(problem), 1e-9);
}

TEST(Choose, SaysWhenNothingFits) {
  ChooseProblem problem{
      .layers = {0, 0}, .memory = {{4, 6}}, .time = {{1, 1}}, .transition = {{{0, 0}, {0, 0}}}, .budget = 7};
  EXPECT_FALSE(choose_strategies(problem));
  problem.budget = 8;
  EXPECT_TRUE(choose_strategies(problem));
}

}  // namespace
}  // namespace unigrpo::planner

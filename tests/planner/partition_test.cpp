#include "planner/partition.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "base/rng.h"
#include "planner/pipeline.h"

namespace unigrpo::planner {
namespace {

PartitionProblem random_problem(RandomStream& random) {
  PartitionProblem p;
  const auto layer = [&] {
    return PartitionProblem::Layer{.forward_ms = random.uniform(1, 10),
                                   .backward_ms = random.uniform(2, 20),
                                   .sync_ms = random.uniform(0, 12),
                                   .weights_mb = random.uniform(100, 900),
                                   .activation_mb = random.uniform(20, 200)};
  };
  p.stages = 2 + static_cast<int64_t>(random.below(3));
  const auto count = p.stages + static_cast<int64_t>(random.below(6));
  for (int64_t i = 0; i < count; ++i) p.layers.push_back(layer());
  p.embed = p.head = layer();
  p.embed.sync_ms = p.head.sync_ms = 0;
  p.micro_batches = 1 + static_cast<int64_t>(random.below(8));
  p.budget_mb = random.uniform(500, 6000);
  p.p2p_ms = random.uniform(0, 1);
  p.cost = random.chance(0.5) ? PartitionCost::events : PartitionCost::galvatron;
  return p;
}

/// Every cut.
void each_cut(const PartitionProblem& p, Boundaries& cut, const std::function<void(const Boundaries&)>& visit) {
  if (std::ssize(cut) == p.stages - 1) return visit(cut);
  for (int64_t b = cut.empty() ? 1 : cut.back() + 1; b < std::ssize(p.layers); ++b) {
    cut.push_back(b);
    each_cut(p, cut, visit);
    cut.pop_back();
  }
}

TEST(Partition, IsTheBestOfAllCuts) {
  RandomStream random({.seed = 50});
  for (int round = 0; round < 800; ++round) {
    const PartitionProblem problem = random_problem(random);
    double best = std::numeric_limits<double>::infinity(), least = best;
    Boundaries cut;
    each_cut(problem, cut, [&](const Boundaries& b) {
      const double mb = partition_mb(problem, b);
      least = std::min(least, mb);
      if (mb <= problem.budget_mb) best = std::min(best, partition_ms(problem, b));
    });
    const auto got = best_partition(problem);
    ASSERT_EQ(got.has_value(), best < 1e300) << round;
    if (got) {
      ASSERT_NEAR(got->step_ms, best, 1e-9 * best) << round;
      ASSERT_LE(partition_mb(problem, got->boundaries), problem.budget_mb);
    }
    ASSERT_NEAR(least_partition_mb(problem), least, 1e-9 * least) << round;
  }
}

TEST(Pipeline, EqualStagesMeetTheClosedForm) {
  for (const int64_t stages : {1, 2, 4, 7}) {
    for (const int64_t m : {1, 3, 9}) {
      for (const Schedule schedule : {Schedule::one_f_one_b, Schedule::gpipe}) {
        const PipelineRun run = play_pipeline({.schedule = schedule,
                                               .micro_batches = m,
                                               .forward = std::vector<double>(stages, 1),
                                               .backward = std::vector<double>(stages, 2),
                                               .p2p = std::vector<double>(stages - 1, 0)});
        EXPECT_NEAR(run.makespan, static_cast<double>(3 * (m + stages - 1)), 1e-9);
      }
    }
  }
}

}  // namespace
}  // namespace unigrpo::planner

#include "parallel/pipeline_schedule.h"

#include <gtest/gtest.h>

#include "planner/pipeline.h"

namespace unigrpo::parallel {
namespace {

/// In the order of their beginnings, a stage's pieces as the planner plays them.
std::vector<StageAction> played(planner::Schedule schedule, int64_t stages, int64_t stage, int64_t micro_batches) {
  const auto n = static_cast<size_t>(stages);
  std::vector<planner::PipelineEvent> events;
  planner::play_pipeline({.schedule = schedule,
                          .micro_batches = micro_batches,
                          .forward = std::vector<double>(n, 1),
                          .backward = std::vector<double>(n, 2),
                          .p2p = std::vector<double>(n - 1, 0.1)},
                         &events);
  std::vector<StageAction> actions;
  for (const planner::PipelineEvent& event : events) {
    if (event.stage == stage) actions.push_back({.micro_batch = event.micro_batch, .forward = event.forward});
  }
  return actions;
}

TEST(PipelineSchedule, IsWhatThePlannerPlays) {
  for (const auto& [ours, theirs] : {std::pair(Schedule::one_f_one_b, planner::Schedule::one_f_one_b),
                                     std::pair(Schedule::gpipe, planner::Schedule::gpipe)}) {
    for (int64_t stages = 1; stages <= 5; ++stages) {
      for (int64_t stage = 0; stage < stages; ++stage) {
        for (int64_t micro_batches = 0; micro_batches <= 8; ++micro_batches) {
          EXPECT_EQ(pipeline_schedule(ours, stages, stage, micro_batches), played(theirs, stages, stage, micro_batches))
              << stages << " stages, stage " << stage << ", " << micro_batches << " micro-batches";
        }
      }
    }
  }
}

TEST(PipelineSchedule, InterleavesForwardsAndBackwards) {
  using Actions = std::vector<StageAction>;
  EXPECT_EQ(pipeline_schedule(Schedule::one_f_one_b, 2, 0, 3),
            (Actions{{0, true}, {1, true}, {0, false}, {2, true}, {1, false}, {2, false}}));
  EXPECT_EQ(pipeline_schedule(Schedule::one_f_one_b, 2, 1, 2), (Actions{{0, true}, {0, false}, {1, true}, {1, false}}));
  EXPECT_EQ(pipeline_schedule(Schedule::gpipe, 2, 1, 2), (Actions{{0, true}, {1, true}, {0, false}, {1, false}}));
}

}  // namespace
}  // namespace unigrpo::parallel

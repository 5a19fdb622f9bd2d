#include "parallel/groups.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/ranks.h"
#include "support/refusal.h"

namespace unigrpo::parallel {
namespace {

using test::run_ranks;

/// Which the test's thread owns.
std::shared_ptr<Comm> shared(Comm& world) {
  return {&world, [](Comm*) {}};
}

/// The world's ranks in a group, as they tell each other.
std::vector<int64_t> members(const std::shared_ptr<Comm>& group, int64_t rank) {
  if (!group) return {rank};
  at::Tensor all = at::empty({group->size()}, at::kLong);
  group->all_gather(all, at::full({1}, rank, at::kLong), "members");
  for (int64_t i = 0; i < group->size(); ++i) {
    EXPECT_EQ(group->peers()[static_cast<size_t>(i)].rank, all[i].item<int64_t>());
  }
  return {all.data_ptr<int64_t>(), all.data_ptr<int64_t>() + group->size()};
}

TEST(Groups, EightRanksOfTwoByTwoInShardsOfTwo) {
  const auto errors = run_ranks(8, [](Comm& world) {
    const Groups groups = make_groups(shared(world), {.tp = 2, .sp = 2, .shard_ranks = 2});
    const int64_t r = world.rank(), t = r % 2, s = r / 2 % 2, d = r / 4;
    using Ranks = std::vector<int64_t>;
    EXPECT_EQ(members(groups.tensor, r), (Ranks{r - t, r - t + 1}));
    EXPECT_EQ(members(groups.sequence, r), (Ranks{4 * d + t, 4 * d + 2 + t}));
    EXPECT_EQ(members(groups.model, r), (Ranks{4 * d, 4 * d + 1, 4 * d + 2, 4 * d + 3}));
    EXPECT_EQ(members(groups.data, r), (Ranks{r % 4, r % 4 + 4}));
    EXPECT_EQ(members(groups.weights, r), (Ranks{t, 2 + t, 4 + t, 6 + t}));
    EXPECT_EQ(members(groups.block, r), (Ranks{4 * d, 4 * d + 1, 4 * d + 2, 4 * d + 3}));
    EXPECT_EQ(members(groups.shard, r), (Ranks{4 * d + t, 4 * d + 2 + t}));
    EXPECT_EQ(members(groups.replica, r), (Ranks{2 * s + t, 2 * s + t + 4}));
    EXPECT_EQ(groups.tp_rank, t);
    EXPECT_EQ(groups.sp_rank, s);
    EXPECT_EQ(groups.data_rank, d);
    EXPECT_EQ(groups.shard_rank, s);
    EXPECT_EQ(groups.replica_rank, d);
    EXPECT_EQ(groups.data_ranks, 2);
    EXPECT_EQ(groups.replicas, 2);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Groups, OfLayersWithPlansOfTheirOwn) {
  const auto errors = run_ranks(8, [](Comm& world) {
    const LayerPlan tensor{.tp = 4, .sp = 1}, both{.tp = 2, .sp = 2}, sequence{.tp = 1, .sp = 4};
    const Groups groups = make_groups(shared(world), {.sp = 4, .layers = {tensor, both, sequence, both}});
    const int64_t r = world.rank(), d = r / 4;
    using Ranks = std::vector<int64_t>;
    const Ranks model = {4 * d, 4 * d + 1, 4 * d + 2, 4 * d + 3};
    ASSERT_EQ(groups.layers.size(), 4U);
    EXPECT_EQ(members(groups.layers[0].tensor, r), model);
    EXPECT_FALSE(groups.layers[0].sequence);
    EXPECT_EQ(members(groups.layers[1].tensor, r), (Ranks{r - r % 2, r - r % 2 + 1}));
    EXPECT_EQ(members(groups.layers[1].sequence, r), (Ranks{4 * d + r % 2, 4 * d + 2 + r % 2}));
    EXPECT_EQ(members(groups.layers[2].sequence, r), model);
    EXPECT_EQ(groups.layers[3].sequence, groups.layers[1].sequence);
    EXPECT_EQ(members(groups.block, r), (Ranks{0, 1, 2, 3, 4, 5, 6, 7}));
    EXPECT_EQ(members(groups.layers[0].shard, r), (Ranks{r % 4, r % 4 + 4}));
    EXPECT_EQ(members(groups.layers[1].shard, r), (Ranks{r % 2, r % 2 + 2, r % 2 + 4, r % 2 + 6}));
    EXPECT_EQ(groups.layers[2].shard, groups.block);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Groups, OfLayersThatFewerRanksShare) {
  const auto errors = run_ranks(8, [](Comm& world) {
    const LayerPlan alone{}, tensor{.tp = 2}, both{.tp = 2, .sp = 2}, sequence{.sp = 2};
    const Groups groups = make_groups(shared(world), {.tp = 2, .sp = 2, .layers = {alone, tensor, both, sequence}});
    const int64_t r = world.rank(), pair = r - r % 2;
    using Ranks = std::vector<int64_t>;
    EXPECT_EQ(groups.model->size(), 4);
    EXPECT_FALSE(groups.layers[0].tensor || groups.layers[0].sequence);
    EXPECT_EQ(groups.layers[0].shard, groups.block);
    EXPECT_EQ(members(groups.layers[1].tensor, r), (Ranks{pair, pair + 1}));
    EXPECT_EQ(groups.layers[2].tensor, groups.layers[1].tensor);
    EXPECT_EQ(members(groups.layers[2].sequence, r), (Ranks{r - r % 4 + r % 2, r - r % 4 + r % 2 + 2}));
    EXPECT_EQ(members(groups.layers[3].sequence, r), (Ranks{pair, pair + 1}));
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Groups, OfStagesHaveAllButThePipelineWithinAStage) {
  const auto errors = run_ranks(8, [](Comm& world) {
    const LayerPlan tensor{.tp = 2}, sequence{.sp = 2, .stage = 1};
    const Groups groups = make_groups(shared(world), {.tp = 2, .shard_ranks = 1, .layers = {tensor, sequence}});
    const int64_t r = world.rank(), first = r / 4 * 4, m = r / 2 * 2;
    using Ranks = std::vector<int64_t>;
    EXPECT_EQ(groups.stage, r / 4);
    EXPECT_EQ(members(groups.pipeline, r), (Ranks{r % 4, r % 4 + 4}));
    EXPECT_EQ(members(groups.pipeline_back, r), (Ranks{r % 4, r % 4 + 4}));
    EXPECT_NE(groups.pipeline, groups.pipeline_back);
    EXPECT_EQ(members(groups.model, r), (Ranks{m, m + 1}));
    EXPECT_EQ(members(groups.data, r), (Ranks{r % 2, r % 2 + 2, r % 2 + 4, r % 2 + 6}));
    EXPECT_EQ(members(groups.weights, r), (Ranks{first + r % 2, first + r % 2 + 2}));
    EXPECT_EQ(members(groups.block, r), (Ranks{m, m + 1}));
    EXPECT_EQ(members(groups.replica, r), (Ranks{first + r % 2, first + r % 2 + 2}));
    for (const LayerGroups& layer : groups.layers) {  // of the other stage too
      EXPECT_EQ(members(layer.tp == 2 ? layer.tensor : layer.sequence, r), (Ranks{m, m + 1}));
    }
    EXPECT_EQ(groups.data_rank, r / 2);
    EXPECT_EQ(groups.data_ranks, 4);
    EXPECT_EQ(groups.replicas, 2);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Groups, BlocksAreLargeEnoughForAllLayersSlices) {
  const auto errors = run_ranks(8, [](Comm& world) {
    const LayerPlan tensor{.tp = 4, .sp = 1}, sequence{.tp = 1, .sp = 4};
    const Groups groups = make_groups(shared(world), {.sp = 4, .shard_ranks = 1, .layers = {sequence, tensor}});
    const int64_t r = world.rank(), d = r / 4;
    using Ranks = std::vector<int64_t>;
    EXPECT_EQ(members(groups.block, r), (Ranks{4 * d, 4 * d + 1, 4 * d + 2, 4 * d + 3}));
    EXPECT_EQ(members(groups.replica, r), (Ranks{r % 4, r % 4 + 4}));
    EXPECT_FALSE(groups.layers[1].shard);
    EXPECT_EQ(groups.shape.shard_ranks, 4);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Groups, OfABlockForEachPowerOfTwoOfNeighbours) {
  const auto errors = run_ranks(6, [](Comm& world) {
    const Groups groups = make_groups(shared(world), {.flexible_sp = true});
    const int64_t r = world.rank();
    using Ranks = std::vector<int64_t>;
    ASSERT_EQ(groups.blocks.size(), r < 4 ? 2U : 1U);
    EXPECT_EQ(members(groups.blocks.at(2), r), (Ranks{r - r % 2, r - r % 2 + 1}));
    if (r < 4) {
      EXPECT_EQ(members(groups.blocks.at(4), r), (Ranks{0, 1, 2, 3}));
    }
    EXPECT_FALSE(groups.model || groups.sequence);
    EXPECT_EQ(groups.data_ranks, 6);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Groups, OfOneRankAreNone) {
  const auto errors = run_ranks(3, [](Comm& world) {
    const Groups groups = make_groups(shared(world), {});
    EXPECT_FALSE(groups.tensor || groups.sequence || groups.model || groups.replica);
    EXPECT_EQ(members(groups.data, world.rank()), (std::vector<int64_t>{0, 1, 2}));
    EXPECT_EQ(members(groups.shard, world.rank()), (std::vector<int64_t>{0, 1, 2}));
    EXPECT_EQ(groups.shape.shard_ranks, 3);
    world.close_store();
    EXPECT_THROW(world.subgroup({0, 1, 2}, "late"), std::logic_error);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

TEST(Groups, CountTheirCallsWithTheWorlds) {
  const auto errors = run_ranks(2, [](Comm& world) {
    const auto group = world.subgroup({1, 0}, "turned");
    EXPECT_EQ(group->rank(), 1 - world.rank());
    const uint64_t before = world.calls().count();
    at::Tensor all = at::empty({2}, at::kLong);
    group->all_gather(all, at::full({1}, world.rank(), at::kLong), "order");
    EXPECT_EQ(all[0].item<int64_t>(), 1);
    EXPECT_EQ(world.calls().count(), before + 1);
    const auto again = world.subgroup({1, 0}, "turned");
    again->barrier("again");
    group->barrier("first");
    EXPECT_THROW(world.subgroup({1 - world.rank()}, "without me"), std::invalid_argument);
  });
  for (const std::string& error : errors) EXPECT_EQ(error, "");
}

std::string refused(const GroupShape& shape, int64_t world_size) {
  try {
    check_shape(shape, world_size);
  } catch (const BadInput& error) {
    return error.what();
  }
  return {};
}

TEST(Groups, ShapesThatDoNotDivideAreBadInput) {
  EXPECT_EQ(refused({.tp = 2, .sp = 3, .shard_ranks = 2}, 12), "");
  EXPECT_EQ(refused({.tp = 2, .sp = 3}, 8),
            "parallel: tp = 2 x sp = 3 does not divide 8 ranks; their product may be 1, 2, 4, 8");
  EXPECT_EQ(refused({.sp = 0}, 4), "parallel: tp = 1 x sp = 0 does not divide 4 ranks; their product may be 1, 2, 4");
  EXPECT_EQ(refused({.tp = 2, .shard_ranks = 3}, 8),
            "parallel.shard_ranks: 3 does not divide the 4 ranks with the same weights; expected 0 (all), 1, 2, 4");
}

TEST(Groups, APlanForOtherRanksIsBadInput) {
  const GroupShape shape{.layers = {LayerPlan{}}, .plan_file = "plan.json", .planned_ranks = 4};
  EXPECT_NO_THROW(check_shape(shape, 4));
  EXPECT_EQ(testing::refusal([&] { check_shape(shape, 2); }), "plan.json: world: a plan for 4 ranks, this run has 2");
}

TEST(Groups, SomeRankDraws) {
  EXPECT_NO_THROW(check_shape({.reward_ranks = 1}, 2));
  EXPECT_EQ(testing::refusal([] { check_shape({.reward_ranks = 2}, 2); }),
            "parallel.reward_ranks: 2 of 2 ranks leave none to draw; expected at most 1");
}

TEST(Groups, StagesHaveEquallyManyRanks) {
  const LayerPlan first{.tp = 2}, second{.tp = 2, .stage = 1};
  const GroupShape shape{.tp = 2, .layers = {first, second}, .plan_file = "plan.json"};
  EXPECT_EQ(refused(shape, 4), "");
  EXPECT_EQ(refused(shape, 3), "plan.json: 2 stages do not divide 3 ranks; their number may be 1, 3");
  EXPECT_EQ(refused(shape, 2), "parallel: tp = 2 x sp = 1 does not divide 1 ranks of a stage; their product may be 1");
  EXPECT_EQ(refused({.in_pairs = true, .layers = {{}, {.stage = 1}}, .plan_file = "plan.json"}, 2),
            "parallel.exact_reduction: expected layers of one stage, plan.json has 2");
}

TEST(Groups, AnewForEachMicroBatchNeedNoOthers) {
  EXPECT_EQ(refused({.flexible_sp = true}, 3), "");
  EXPECT_EQ(refused({.tp = 2, .flexible_sp = true}, 4),
            "parallel.flexible_sp: expected tp = 1 and sp = 1, got 2 and 1");
  EXPECT_EQ(refused({.sp = 4, .flexible_sp = true}, 4),
            "parallel.flexible_sp: expected tp = 1 and sp = 1, got 1 and 4");
}

TEST(Groups, PairsNeedAPowerOfTwoOfRanksThatAllShareAlike) {
  EXPECT_EQ(refused({.in_pairs = true}, 4), "");
  EXPECT_EQ(refused({.shard_ranks = 4, .in_pairs = true}, 4), "");
  EXPECT_EQ(refused({.in_pairs = true}, 3), "parallel.exact_reduction: expected 1, 2, 4, 8, ... ranks, got 3");
  const std::string wanted = "parallel.exact_reduction: expected tp = 1, sp = 1 and shard_ranks = 0, got ";
  EXPECT_EQ(refused({.sp = 2, .in_pairs = true}, 4), wanted + "1, 2 and 0");
  EXPECT_EQ(refused({.tp = 2, .in_pairs = true}, 4), wanted + "2, 1 and 0");
  EXPECT_EQ(refused({.shard_ranks = 2, .in_pairs = true}, 4), wanted + "1, 1 and 2");
}

}  // namespace
}  // namespace unigrpo::parallel

#include "planner/search.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "planner/model_shape.h"
#include "planner/simulate.h"

namespace unigrpo::planner {
namespace {

PlannedModel model_7b(int64_t tokens = 4096) {
  const ModelShape shape{
      .layers = 28, .hidden = 3584, .intermediate = 18944, .heads = 28, .kv_heads = 4, .vocab = 152064, .experts = 2};
  return analytic_model(shape, {.tokens = tokens}, 400);
}

PlannedModel random_model(RandomStream& random) {
  const ModelShape shape{.layers = 2 + static_cast<int64_t>(random.below(7)),
                         .hidden = 512 * (1 + static_cast<int64_t>(random.below(8))),
                         .intermediate = 2048 * (1 + static_cast<int64_t>(random.below(6))),
                         .heads = 8,
                         .kv_heads = 4,
                         .vocab = 32000};
  return analytic_model(shape,
                        {.tokens = 512 * (1 + static_cast<int64_t>(random.below(16))),
                         .half = random.chance(0.8),
                         .trainable = random.chance(0.7) ? 1 : 0.05},
                        300);
}

TEST(Search, KeepsItsRulesOnRandomInstances) {
  RandomStream random({.seed = 80});
  for (int round = 0; round < 120; ++round) {
    const PlannedModel model = random_model(random);
    const Cluster cluster{
        .nodes = 1 + static_cast<int64_t>(random.below(2)), .gpus_per_node = 4, .memory_gib = random.uniform(3, 40)};
    const SearchQuery query{.global_batch = int64_t{1} << random.below(5), .top = 3};
    const SearchResult result = search_plans(model, cluster, query);
    for (const JudgedPlan& judged : result.plans) {
      check_plan(judged.plan, "plan");
      EXPECT_EQ(judged.plan.world, cluster.world());
      EXPECT_EQ(std::ssize(judged.plan.layers), model.layers[0].count);
      for (const double mb : judged.plan.predicted.memory_mb) EXPECT_LE(mb, cluster.memory_gib * 1024) << round;
      EXPECT_GE(judged.plan.predicted.step_ms, result.plans.front().plan.predicted.step_ms);
      const JudgedPlan again = judge_plan(model, cluster, query.repairs, judged.plan);
      EXPECT_EQ(again.plan.predicted.step_ms, judged.plan.predicted.step_ms);
    }
    if (result.plans.empty()) {
      EXPECT_GT(result.least_mb, cluster.memory_gib * 1024 - 2048) << round;
    }
    const SearchResult twice = search_plans(model, cluster, query);
    ASSERT_EQ(twice.plans.size(), result.plans.size());
    for (size_t i = 0; i < twice.plans.size(); ++i) EXPECT_EQ(twice.plans[i].plan.layers, result.plans[i].plan.layers);
  }
}

TEST(Search, MoreChoiceIsNeverWorse) {
  const Cluster cluster{.memory_gib = 80};
  const PlannedModel model = model_7b();
  SearchQuery query{.global_batch = 32, .micro_batches = 4};
  const auto step = [&] {
    const SearchResult result = search_plans(model, cluster, query);
    return result.plans.empty() ? 1e300 : result.plans.front().plan.predicted.step_ms;
  };
  const double all = step();
  EXPECT_LT(all, 1e300);
  for (bool Space::*part : {&Space::sdp, &Space::tp, &Space::sp, &Space::pp, &Space::recompute}) {
    query.space = SearchQuery{}.space;
    query.space.*part = false;
    EXPECT_GE(step(), all * (1 - 1e-9));
  }
}

TEST(Search, SaysTheLeastMemory) {
  const SearchResult result = search_plans(model_7b(), Cluster{.memory_gib = 20}, {.global_batch = 8});
  EXPECT_TRUE(result.plans.empty());
  EXPECT_GT(result.least_mb, 20 * 1024);
  const SearchResult enough =
      search_plans(model_7b(), Cluster{.memory_gib = result.least_mb / 1024 + 0.5}, {.global_batch = 8});
  EXPECT_FALSE(enough.plans.empty());
}

TEST(Search, SaysWhenNothingDivides) {
  EXPECT_THROW(search_plans(model_7b(), Cluster{.gpus_per_node = 11}, {.global_batch = 1, .micro_batches = 1}),
               BadInput);
}

// ---- the repairs of model U, one by one ----

const Strategy kSp{.pp = 1, .tp = 1, .sp = 4, .dp = 1, .zero = 3, .recompute = false};

TEST(ModelU, ShardsSpGroupsWithoutReplicas) {
  const PlannedModel model = model_7b();
  const Cluster cluster{.gpus_per_node = 4};
  const CostModel ours(model, cluster, {}, 4, 1), theirs(model, cluster, {.shard_sp_groups = false}, 4, 1);
  EXPECT_GT(ours.layer_work(0, kSp).gather, 0);
  EXPECT_EQ(theirs.layer_work(0, kSp).gather, 0);
  EXPECT_LT(ours.layer_memory(0, kSp).moments, theirs.layer_memory(0, kSp).moments);
}

TEST(ModelU, PricesTransitionsAsTheExchangesThatTheyAre) {
  const PlannedModel model = model_7b();
  const Cluster cluster;
  const Strategy a{.dp = 8}, b{.tp = 4, .dp = 2};
  const CostModel ours(model, cluster, {}, 8, 1), theirs(model, cluster, {.physical_transitions = false}, 8, 1);
  // Four neighbours, each owning one sample's activations: 2 all-to-alls of 28 MB.
  EXPECT_NEAR(ours.transition_ms(0, a, b), 2 * collective_ms(cluster, Collective::all_to_all, {4, 1}, 28), 1e-9);
  EXPECT_EQ(theirs.transition_ms(0, a, b), 0);
  EXPECT_EQ(ours.transition_ms(0, a, a), 0);
}

TEST(ModelU, UsesEveryDegreeThatDividesTheHeads) {
  Space space{.powers_of_two = false};
  const auto degrees = [&] {
    std::vector<int64_t> out;
    for (const Strategy& s : strategies(28, 1, space, 28, 0)) {
      if (s.tp > 1 && !s.recompute && s.zero == 0) out.push_back(s.tp);
    }
    return out;
  };
  EXPECT_EQ(degrees(), (std::vector<int64_t>{2, 4, 7, 14, 28}));
  space.powers_of_two = true;
  EXPECT_EQ(degrees(), (std::vector<int64_t>{2, 4}));
}

TEST(ModelU, MovesBoundariesWhereTheHeadIsHeavy) {
  PlannedModel model = model_7b();
  model.head.forward_ms *= 20;
  SearchQuery query{.space = {.max_pp = 4}, .global_batch = 16, .micro_batches = 16};
  query.space.tp = query.space.sp = false;
  const Cluster cluster{.gpus_per_node = 4, .memory_gib = 400};
  const double moved = search_plans(model, cluster, query).plans.front().plan.predicted.step_ms;
  query.repairs.uneven_stages = false;
  EXPECT_LE(moved, search_plans(model, cluster, query).plans.front().plan.predicted.step_ms);
}

TEST(ModelU, PricesMessagesByTheirPlace) {
  const PlannedModel model = model_7b();
  const Cluster cluster{.nodes = 4};
  const Strategy s{.tp = 8, .dp = 4, .zero = 0};
  const CostModel ours(model, cluster, {}, 32, 1), theirs(model, cluster, {.placed_messages = false}, 32, 1);
  EXPECT_GT(ours.layer_work(0, s).sync, 5 * theirs.layer_work(0, s).sync);  // across nodes, eight groups a link
}

TEST(ModelU, FrozenWeightsHaveNoGradients) {
  PlannedModel model = model_7b();
  model.layers[0].trainable = 0;
  const Cluster cluster;
  const Strategy s{.dp = 8};
  const CostModel ours(model, cluster, {}, 8, 1), theirs(model, cluster, {.frozen = false}, 8, 1);
  EXPECT_EQ(ours.layer_work(0, s).sync, 0);
  EXPECT_EQ(ours.layer_memory(0, s).moments, 0);
  EXPECT_NEAR(ours.layer_work(0, s).backward, ours.layer_work(0, s).forward, 1e-9);
  EXPECT_NEAR(theirs.layer_work(0, s).backward, 2 * theirs.layer_work(0, s).forward, 1e-9);
}

TEST(ModelU, HoldsBothExperts) {
  const PlannedModel model = model_7b();
  const Cluster cluster;
  const Strategy s{.dp = 8};
  const CostModel ours(model, cluster, {}, 8, 1), theirs(model, cluster, {.two_experts = false}, 8, 1);
  EXPECT_NEAR(ours.layer_memory(0, s).weights, 2 * theirs.layer_memory(0, s).weights, 1e-9);
  EXPECT_NEAR(ours.layer_work(0, s).forward, theirs.layer_work(0, s).forward, 1e-12);
}

TEST(ModelU, StoresStatesAsTheRuntimeDoes) {
  const PlannedModel model = model_7b();
  const Cluster cluster;
  const Strategy s{.dp = 8};
  const CostModel ours(model, cluster, {}, 8, 1), theirs(model, cluster, {.stored_states = false}, 8, 1);
  const auto bytes = [&](const CostModel& cost) {
    const MemoryView view = cost.layer_memory(0, s);
    return 4 * (view.weights + view.gradients + view.moments) / model.layers[0].parameter_mb;
  };
  EXPECT_NEAR(bytes(ours), 18, 1e-9);    // 2 + 4, 4, 8 bytes a parameter
  EXPECT_NEAR(bytes(theirs), 16, 1e-9);  // Galvatron's 4 x 4
}

TEST(ModelU, GradientsOfSeveralMicroBatchesAreKeptAsTheirSum) {
  const PlannedModel model = model_7b();
  const Cluster cluster;
  const CostModel once(model, cluster, {}, 8, 1), often(model, cluster, {}, 64, 8);
  for (const int zero : {0, 2, 3}) {
    const MemoryView one = once.layer_memory(0, {.dp = 8, .zero = zero}),
                     sum = often.layer_memory(0, {.dp = 8, .zero = zero});
    EXPECT_NEAR(one.gradients, model.layers[0].parameter_mb / (zero >= 2 ? 8 : 1), 1e-9);
    EXPECT_EQ(one.accumulation, 0);
    EXPECT_EQ(sum.gradients, 0);
    EXPECT_EQ(sum.accumulation, one.gradients);
    EXPECT_NEAR(sum.total(), one.total(), 1e-9);
  }
}

TEST(ModelU, ZeroLevelsSplitMoreAndMore) {
  const PlannedModel model = model_7b();
  const Cluster cluster;
  const CostModel cost(model, cluster, {}, 8, 1);
  double before = 1e300;
  for (const int zero : {0, 1, 2, 3}) {
    const MemoryView view = cost.layer_memory(0, {.dp = 8, .zero = zero});
    EXPECT_LT(view.total(), before);
    before = view.total();
  }
}

// ---- simulator ----

TEST(Simulate, TwoStreamsSlowEachOtherDown) {
  // 10 ms of compute beside 4 of traffic at 1.25: 5 ms together, then the 6 that are left.
  const TwoStreams run = play_streams({{10, -1}}, {{4, -1}}, 1.25);
  EXPECT_NEAR(run.traffic[0].second, 5, 1e-9);
  EXPECT_NEAR(run.end, 11, 1e-9);
  // Compute that needs the traffic waits for it.
  EXPECT_NEAR(play_streams({{10, 0}}, {{4, -1}}, 1.25).end, 14, 1e-9);
}

TEST(Simulate, AgreesWithThePredictionWithoutTraffic) {
  const PlannedModel model = model_7b();
  const Cluster cluster{.gpus_per_node = 4, .memory_gib = 1000};
  Plan plan{.world = 4, .global_batch = 8, .micro_batches = 8, .partition = {7, 7, 7, 7}};
  plan.layers.assign(28, {.pp = 4});
  const JudgedPlan judged = judge_plan(model, cluster, {}, plan);
  const Simulation run = simulate_plan(model, cluster, {}, plan);
  EXPECT_NEAR(run.step_ms, judged.plan.predicted.step_ms, 1e-6 * run.step_ms);
  for (const SimulatedStage& stage : run.stages) EXPECT_NEAR(stage.busy + stage.exposed + stage.idle, 1, 1e-9);
}

}  // namespace
}  // namespace unigrpo::planner

#include "planner/phases.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.h"

namespace unigrpo::planner {
namespace {

const ModelShape kShape{
    .layers = 28, .hidden = 3584, .intermediate = 18944, .heads = 28, .kv_heads = 4, .vocab = 152064, .experts = 2};

RolloutShape whole_step() {
  return {.samples = 64,
          .prompts = 8,
          .prompt_tokens = 256,
          .text_tokens = 128,
          .image_tokens = 1024,
          .denoise_steps = 20,
          .reward_ms = 200,
          .minibatches = 4,
          .update_ms = {{1, 40000}, {2, 20500}, {4, 10600}, {8, 9500}}};
}

size_t op_named(const PhasePlan& plan, const std::string& name) {
  const auto found = std::ranges::find(plan.ops, name, &MetaOp::name);
  EXPECT_NE(found, plan.ops.end()) << name;
  return static_cast<size_t>(found - plan.ops.begin());
}

TEST(Phases, AreModulesOfOneGraphInTheirOrder) {
  const PhasePlan plan = plan_phases(kShape, whole_step(), Cluster{});
  std::vector<std::string> names;
  for (const PhasePlan::Phase& phase : plan.phases) names.push_back(phase.name);
  EXPECT_EQ(names, (std::vector<std::string>{"prefill", "decode", "denoise", "reward", "update"}));
  EXPECT_EQ(plan.ops.size(), 4U * 4 + 4);
  EXPECT_EQ(plan.ops[op_named(plan, "decode 2")].deps, std::vector<size_t>{op_named(plan, "prefill 2")});
  EXPECT_EQ(plan.ops[op_named(plan, "update 0")].deps, std::vector<size_t>{op_named(plan, "reward 0")});
  EXPECT_EQ(plan.ops[op_named(plan, "update 3")].deps,
            (std::vector<size_t>{op_named(plan, "reward 3"), op_named(plan, "update 2")}));
  // A single optimizer step waits for all, three for the chunks that hold their samples.
  RolloutShape rollout = whole_step();
  rollout.minibatches = 1;
  PhasePlan other = plan_phases(kShape, rollout, Cluster{});
  EXPECT_EQ(other.ops[op_named(other, "update 0")].deps.size(), 4U);
  rollout.minibatches = 3;
  other = plan_phases(kShape, rollout, Cluster{});
  EXPECT_EQ(
      other.ops[op_named(other, "update 1")].deps,
      (std::vector<size_t>{op_named(other, "reward 1"), op_named(other, "reward 2"), op_named(other, "update 0")}));
}

TEST(Phases, CostWhatTheirEquationsSay) {
  const PhasePlan plan = plan_phases(kShape, whole_step(), Cluster{});
  // 7.07e9 parameters that a token passes: 5.7e9 in layers without experts' copies, the rest the head.
  const double parameters = 28.0 * (2 * 3584.0 * 3584 + 2 * 3584.0 * 512 + 3 * 3584.0 * 18944) + 3584.0 * 152064;
  const double token_ms = 2 * parameters / (400 * 1e9);
  EXPECT_NEAR(plan.phases[0].alone_ms, 256 * token_ms, 1e-9);                       // a prompt a rank
  EXPECT_NEAR(plan.phases[1].alone_ms, 128 * parameters * 2 / (3000 * 1e6), 1e-9);  // bound by reading weights
  EXPECT_NEAR(plan.phases[2].alone_ms, 20 * 8 * 1024 * token_ms, 1e-6);             // 8 samples a rank
  EXPECT_NEAR(plan.phases[3].alone_ms, 8 * 200, 1e-9);
  EXPECT_NEAR(plan.phases[4].alone_ms, 4 * 9500, 1e-9);
  double sum = 0;
  for (const PhasePlan::Phase& phase : plan.phases) sum += phase.alone_ms;
  EXPECT_NEAR(plan.colocated_ms, sum, 1e-9);
  EXPECT_LE(plan.step_ms(), plan.colocated_ms);
}

TEST(Phases, RunNextToEachOtherOnDisjointRanksWhereThatPays) {
  // An update that gains little beyond four ranks leaves the others to the rollout of the next chunk.
  const PhasePlan plan = plan_phases(kShape, whole_step(), Cluster{});
  EXPECT_TRUE(plan.in_waves());
  EXPECT_LT(plan.step_ms(), 0.99 * plan.colocated_ms);
  bool beside = false;
  for (const Wave& wave : plan.waves.waves) {
    std::set<std::string> modules;
    int64_t ranks = 0;
    for (const WavePiece& piece : wave) {
      modules.insert(plan.ops[piece.op].name.substr(0, plan.ops[piece.op].name.find(' ')));
      ranks += piece.ranks;
    }
    EXPECT_LE(ranks, 8);
    beside = beside || (modules.size() > 1 && modules.contains("update"));
  }
  EXPECT_TRUE(beside);
}

TEST(Phases, FollowEachOtherWhereNothingIsGained) {
  RolloutShape rollout = whole_step();
  rollout.minibatches = 1;
  const PhasePlan plan = plan_phases(kShape, rollout, Cluster{});
  EXPECT_FALSE(plan.in_waves());
  EXPECT_EQ(plan.step_ms(), plan.colocated_ms);
}

TEST(Phases, FewSamplesMakeFewChunks) {
  RolloutShape rollout = whole_step();
  rollout.samples = 2, rollout.prompts = 1, rollout.minibatches = 1;
  const PhasePlan plan = plan_phases(kShape, rollout, Cluster{});
  EXPECT_EQ(plan.ops.size(), 2U * 4 + 1);
  for (const MetaOp& op : plan.ops) {
    for (const auto& [n, ms] : op.ms) EXPECT_GT(ms, 0) << op.name << " " << n;
  }
  rollout.update_ms = {{16, 1.0}};  // of more ranks than there are
  EXPECT_THROW(plan_phases(kShape, rollout, Cluster{}), BadInput);
}

TEST(Phases, SeveralTasksShareTheUpdate) {
  RolloutShape draw = whole_step(), ask = whole_step();
  draw.task = "draw";
  ask.task = "ask";
  ask.samples = 32;
  ask.image_tokens = ask.denoise_steps = 0;
  const std::vector<RolloutShape> tasks = {draw, ask};
  const PhasePlan plan = plan_phases(kShape, tasks, Cluster{});
  std::vector<std::string> names;
  for (const PhasePlan::Phase& phase : plan.phases) names.push_back(phase.name);
  EXPECT_EQ(names, (std::vector<std::string>{"prefill draw", "decode draw", "denoise draw", "reward draw",
                                             "prefill ask", "decode ask", "reward ask", "update"}));
  // Every optimizer step needs groups of both.
  const MetaOp& first = plan.ops[op_named(plan, "update 0")];
  EXPECT_EQ(first.deps, (std::vector<size_t>{op_named(plan, "reward draw 0"), op_named(plan, "reward ask 0")}));
  EXPECT_EQ(plan.ops[op_named(plan, "prefill ask 0")].deps, std::vector<size_t>{});
  const PhasePlan alone = plan_phases(kShape, std::span(tasks).first(1), Cluster{});
  const PhasePlan unnamed = plan_phases(kShape, whole_step(), Cluster{});
  EXPECT_EQ(alone.step_ms(), unnamed.step_ms());
  EXPECT_GE(plan.step_ms(), alone.step_ms() * (1 - 1e-9));
}

}  // namespace
}  // namespace unigrpo::planner

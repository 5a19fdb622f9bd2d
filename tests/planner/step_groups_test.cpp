#include "planner/step_groups.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/rng.h"
#include "planner/profile_folder.h"
#include "support/temp_folder.h"

namespace unigrpo::planner {
namespace {

constexpr ModelShape k7b{
    .layers = 32, .hidden = 4096, .intermediate = 11008, .heads = 32, .kv_heads = 8, .vocab = 32000};

SequenceCosts costs_for(int64_t ranks, int64_t tokens_per_rank) {
  SequenceWork work{.ranks = ranks, .tokens_per_rank = tokens_per_rank, .gathers = 3};
  for (int64_t degree = 2; degree <= ranks; degree *= 2) work.degrees.push_back(degree);
  return counted_costs(k7b, {.nodes = (ranks + 7) / 8}, 400, work);
}

std::vector<StepSample> random_step(RandomStream& random, int64_t count, int64_t kinds, double median) {
  std::vector<StepSample> samples;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t prompt = i / 3, prefix = 37 * prompt % 200;
    const int64_t length = prefix + 2 + static_cast<int64_t>(median * std::exp(random.normal()));
    const auto pairs = [](int64_t tokens) { return 0.3 * static_cast<double>(tokens * tokens); };
    samples.push_back({.row = 1000 - 3 * i,
                       .kind = prompt % kinds,
                       .prompt = prompt,
                       .size = {.length = length, .pairs = pairs(length)},
                       .prefix = {.length = prefix, .pairs = pairs(prefix)}});
  }
  return samples;
}

/// Why a step's groups break a rule; empty where they do not.
std::string fault_of(const StepGroups& step, const std::vector<StepSample>& samples, int64_t ranks) {
  std::map<int64_t, const StepSample*> of_row;
  for (const StepSample& sample : samples) of_row[sample.row] = &sample;
  std::set<int64_t> seen;
  int64_t most = 0;
  for (const auto& turn : step.turns) {
    int64_t first = 0;
    std::set<int64_t> kinds;
    for (const SequenceGroup& group : turn) {
      if (first % group.degree != 0) return "a group that is no block";
      first += group.degree;
      int64_t tokens = 0;
      std::set<int64_t> prompts;
      for (const int64_t row : group.sequences) {
        if (!of_row.contains(row) || !seen.insert(row).second) return "a sample twice, or of nobody";
        const StepSample& sample = *of_row.at(row);
        tokens += sample.size.length - (prompts.insert(sample.prompt).second ? 0 : sample.prefix.length);
        kinds.insert(sample.kind);
      }
      if (tokens > group.degree * step.tokens_per_rank) return "over the memory";
      most = std::max(most, (tokens + group.degree - 1) / group.degree);
    }
    if (first > ranks) return "too many ranks";
    if (kinds.size() != 1) return "kinds are mixed";
  }
  if (seen.size() != samples.size()) return "a sample is missing";
  return most <= step.most_tokens ? "" : "a larger share than stated";
}

TEST(StepGroups, HoldEachSampleOnceInBlocksThatKeepTheLimit) {
  RandomStream random({.seed = 20});
  for (int trial = 0; trial < 300; ++trial) {
    const int64_t ranks = std::vector<int64_t>{1, 2, 3, 4, 6, 8}[random.below(6)];
    const auto samples = random_step(random, 1 + static_cast<int64_t>(random.below(30)), 3, 400);
    const SequenceCosts costs = costs_for(ranks, 300 + static_cast<int64_t>(random.below(4000)));
    const StepGroups step = group_step(costs, samples, ranks);
    ASSERT_EQ(fault_of(step, samples, ranks), "") << trial;
    EXPECT_GE(step.milliseconds, step.lower_bound * (1 - 1e-9));
    const StepGroups again = group_step(costs, samples, ranks);
    ASSERT_EQ(again.turns.size(), step.turns.size());
    for (size_t t = 0; t < step.turns.size(); ++t) {
      for (size_t g = 0; g < step.turns[t].size(); ++g)
        EXPECT_EQ(again.turns[t][g].sequences, step.turns[t][g].sequences);
    }
  }
}

TEST(StepGroups, RaiseTheLimitForASampleThatAllRanksTogetherCannotHold) {
  const SequenceCosts costs = costs_for(4, 100);
  const StepGroups step =
      group_step(costs, {{.row = 7, .prompt = 1, .size = {1000, 5e5}}, {.row = 8, .prompt = 2, .size = {30, 450}}}, 4);
  EXPECT_EQ(step.tokens_per_rank, 250);
  EXPECT_EQ(step.most_tokens, 250);
  ASSERT_EQ(step.turns.size(), 2U);
  EXPECT_EQ(step.turns[0].front().degree, 4);
  EXPECT_EQ(group_step(costs, {{.row = 8, .size = {30, 450}}}, 4).tokens_per_rank, 100);
  EXPECT_TRUE(group_step(costs, {}, 4).turns.empty());
  EXPECT_THROW(group_step(costs, {{.row = 0, .size = {0, 0}}}, 4), BadInput);
}

TEST(StepGroups, SamplesOfAPromptShareItsPrefix) {
  const SequenceCosts costs = costs_for(4, 1000);
  // Half of each is the prefix: all three together are twice as long as one.
  std::vector<StepSample> samples;
  for (int64_t row = 0; row < 3; ++row) samples.push_back({.row = row, .size = {800, 3e5}, .prefix = {400, 8e4}});
  const StepGroups step = group_step(costs, samples, 4);
  EXPECT_EQ(fault_of(step, samples, 4), "");
  size_t together = 0;
  for (const auto& turn : step.turns) {
    for (const SequenceGroup& group : turn) together = std::max(together, group.sequences.size());
  }
  EXPECT_EQ(together, 3U);
  // Short ones are one sequence of up to half of what a rank may have.
  samples.clear();
  for (int64_t row = 0; row < 8; ++row) samples.push_back({.row = row, .size = {100, 5e3}, .prefix = {20, 200}});
  const StepGroups few = group_step(costs, samples, 4);
  EXPECT_EQ(fault_of(few, samples, 4), "");
  EXPECT_LE(few.most_tokens, 500);
  // Never more than all ranks hold.
  samples = {{.row = 0, .size = {3600, 6e6}, .prefix = {3500, 6e6}},
             {.row = 1, .size = {4000, 8e6}, .prefix = {3500, 6e6}}};
  EXPECT_EQ(group_step(costs, samples, 4).tokens_per_rank, 1000);
}

TEST(StepGroups, TheFixedPartOfAnExchangeCountsForFewTokens) {
  SequenceCosts costs = costs_for(4, 4096);
  costs.exchange_ms = {{2, 8}, {4, 12}};
  const SequenceCost few = costs.of(400, 4, 0), many = costs.of(1'000'000, 4, 0);
  EXPECT_NEAR(few.comm_ms_per_token.at(2) - costs.cost.comm_ms_per_token.at(2), 8.0 / 200, 1e-12);
  EXPECT_NEAR(many.comm_ms_per_token.at(4) - costs.cost.comm_ms_per_token.at(4), 12.0 / (4 * 4096), 1e-12);
  EXPECT_EQ(few.comm_ms_per_token.at(1), 0);
}

TEST(SequenceCosts, CountWhatAForwardPassDoesThreeTimes) {
  const SequenceCosts costs = costs_for(4, 4096);
  // 2 a weight and token; the layer's weights are 2 h^2 (1 + 1/4) + 3 h m.
  const double layer = 2 * 4096.0 * 4096 * 1.25 + 3 * 4096.0 * 11008;
  EXPECT_NEAR(costs.cost.alpha2, 3 * (32 * 2 * layer + 2 * 4096.0 * 32000) / 400e9, 1e-9);
  EXPECT_NEAR(costs.cost.alpha1, 3 * 32 * 4 * 4096.0 / 400e9, 1e-12);  // a pair that is seen: two products of the width
  // Query, result, key and value of a quarter, two bytes, forward and backward; 3/4 of it travels at 160 GB/s.
  EXPECT_NEAR(costs.cost.comm_ms_per_token.at(4), 2 * 32 * 2 * 4096 * 2.5 / 1048576 / 4 * (3.0 / 4 / 160), 1e-9);
  EXPECT_NEAR(costs.exchange_ms.at(4), 2 * 2 * 32 * 3 * 0.008, 1e-9);
  EXPECT_GT(costs.cost.beta, 0);
}

TEST(SequenceCosts, AreReadFromAProfile) {
  const testing::TempFolder folder;
  MeasuredModel model{.name = "m",
                      .times = {},
                      .seq = 1024,
                      .with_few = {.parameter_mb = 100, .activation_mb = 10, .checkpoint_mb = 1},
                      .with_many = {.parameter_mb = 200, .activation_mb = 20, .checkpoint_mb = 2}};
  const auto layer_ms = [](double s) { return 2e-6 * s * s + 3e-3 * s + 0.5; };
  for (const int64_t seq : {256, 512, 1024}) {
    const auto s = static_cast<double>(seq);
    model.times.push_back({.layers = 1, .batch = 1, .seq = seq, .ms = layer_ms(s) + 1e-3 * s});
    model.times.push_back({.layers = 3, .batch = 1, .seq = seq, .ms = 3 * layer_ms(s) + 1e-3 * s});
  }
  write_model_profile(model, folder.path());
  write_hardware_profile(counted_hardware(Cluster{}, 1.2), 1, 8, folder.path());
  const SequenceWork work{.ranks = 8, .degrees = {1, 2, 8}, .tokens_per_rank = 4096};
  const SequenceCosts costs = profiled_costs(open_profile(folder.path()), k7b, work);
  EXPECT_NEAR(costs.cost.alpha1, 3 * 32 * 2 * 2e-6, 1e-10);
  EXPECT_NEAR(costs.cost.alpha2, 3 * (32 * 3e-3 + 1e-3), 1e-9);
  EXPECT_NEAR(costs.cost.beta, 3 * 32 * 0.5, 1e-6);
  const SequenceCosts counted = counted_costs(k7b, Cluster{}, 400, work);
  EXPECT_NEAR(costs.cost.comm_ms_per_token.at(8), counted.cost.comm_ms_per_token.at(8), 1e-9);
  EXPECT_NEAR(costs.exchange_ms.at(2), counted.exchange_ms.at(2), 1e-6);
  try {
    profiled_costs(open_profile(folder.path()), k7b, {.ranks = 8, .degrees = {1, 3}});
    ADD_FAILURE();
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find("sp_time"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("'all2all_size_3_*MB_time' is missing"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace unigrpo::planner

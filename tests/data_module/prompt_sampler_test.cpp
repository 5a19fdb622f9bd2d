#include "data/prompt_sampler.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "base/error.h"

namespace unigrpo::data {
namespace {

std::vector<Prompt> numbered(int64_t count) {
  std::vector<Prompt> prompts;
  for (int64_t i = 0; i < count; ++i) {
    Prompt prompt;
    prompt.id = std::to_string(i);
    prompt.index = i;
    prompts.push_back(prompt);
  }
  return prompts;
}

std::vector<int64_t> indices(const PromptBatch& batch) {
  std::vector<int64_t> found;
  for (const Prompt& prompt : batch.prompts) found.push_back(prompt.index);
  return found;
}

TEST(PromptSampler, CoversEveryPromptOnceInEachEpoch) {
  const PromptSampler sampler(numbered(30), 7, 6);
  std::vector<std::vector<int64_t>> epochs;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t> order;
    for (int64_t step = 0; step < 5; ++step) {
      for (const int64_t index : indices(sampler.batch(epoch * 5 + step))) order.push_back(index);
    }
    EXPECT_EQ(std::set<int64_t>(order.begin(), order.end()).size(), 30u);
    epochs.push_back(order);
  }
  EXPECT_NE(epochs[0], epochs[1]);
}

TEST(PromptSampler, IsAFunctionOfSeedAndStep) {
  const PromptSampler one(numbered(17), 7, 5), two(numbered(17), 7, 5), other(numbered(17), 8, 5);
  for (int64_t step = 9; step >= 0; --step) EXPECT_EQ(indices(one.batch(step)), indices(two.batch(step)));
  EXPECT_NE(indices(one.batch(0)), indices(other.batch(0)));
  EXPECT_EQ(one.batch(4).step, 4);
}

TEST(PromptSampler, StepsAndEpochsNeedNotFit) {
  const PromptSampler sampler(numbered(7), 1, 3);
  std::map<int64_t, int> count;
  for (int64_t step = 0; step < 7; ++step) {
    for (const int64_t index : indices(sampler.batch(step))) ++count[index];
  }
  for (int64_t index = 0; index < 7; ++index) EXPECT_EQ(count[index], 3);
  EXPECT_EQ(PromptSampler(numbered(2), 1, 5).batch(3).prompts.size(), 5u);
}

TEST(PromptSampler, RepeatsByWeight) {
  auto prompts = numbered(4);
  prompts[1].weight = 2.5;
  prompts[2].weight = 0.5;
  const PromptSampler sampler(prompts, 3, 5);  // the weights sum to 5: a step is an epoch
  std::map<int64_t, int> count;
  constexpr int kEpochs = 2000;
  for (int64_t step = 0; step < kEpochs; ++step) {
    std::map<int64_t, int> here;
    for (const int64_t index : indices(sampler.batch(step))) ++here[index];
    EXPECT_EQ(here[0], 1);
    EXPECT_GE(here[1], 2);
    EXPECT_LE(here[1], 3);
    for (const auto& [index, copies] : here) count[index] += copies;
  }
  // Standard deviation of the mean: 0.5 / sqrt(2000) = 0.011.
  EXPECT_NEAR(static_cast<double>(count[1]) / kEpochs, 2.5, 0.05);
  EXPECT_NEAR(static_cast<double>(count[2]) / kEpochs, 0.5, 0.05);
}

TEST(PromptSampler, TakesAnyFiniteWeights) {
  auto prompts = numbered(3);
  prompts[0].weight = 1e308;
  prompts[1].weight = 1e308;
  prompts[2].weight = 1e-300;
  const PromptSampler heavy(prompts, 3, 4);
  for (const int64_t index : indices(heavy.batch(1000))) EXPECT_NE(index, 2);
  for (Prompt& prompt : prompts) prompt.weight = 1e-12;
  EXPECT_EQ(PromptSampler(prompts, 3, 4).batch(0).prompts.size(), 4u);
}

TEST(PromptSampler, RefusesNothingToDrawFrom) {
  EXPECT_THROW(PromptSampler({}, 1, 1), BadInput);
  EXPECT_THROW(PromptSampler(numbered(2), 1, 0), BadInput);
}

TEST(PromptSampler, ARangeIsAPieceOfTheOrderOfBatches) {
  std::vector<Prompt> prompts = numbered(7);
  prompts[2].weight = 2.5;
  const PromptSampler sampler(prompts, 3, 4);
  std::vector<int64_t> order;
  for (int64_t step = 0; step < 10; ++step) {
    for (const int64_t index : indices(sampler.batch(step))) order.push_back(index);
  }
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {5, 3}, {6, 20}, {39, 1}, {8, 0}}) {
    EXPECT_EQ(indices({.step = 0, .prompts = sampler.range(first, count)}),
              std::vector<int64_t>(order.begin() + first, order.begin() + first + count));
  }
}

}  // namespace
}  // namespace unigrpo::data

#include "train/sft_data.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace unigrpo::train {
namespace {

const std::string kPrompts = UNIGRPO_SOURCE_DIR "/assets/shapes-world/train.jsonl";

/// What an example is, seen from outside.
std::string task_of(const SftExample& example) {
  if (!example.draws) return example.prompt == "what is in the picture?" ? "describe" : "answer";
  if (!example.pictures.empty()) return "edit";
  return example.target.size() == 4 ? "mend" : "draw";
}

TEST(ShapesExamples, TasksComeInTheirSharesAndInTheirForm) {
  SftConfig config;
  config.answer = 0.2;
  config.describe = 0.1;
  config.edit = 0.3;
  config.mend = 0.1;
  config.wrong_first = 0.5;
  const ShapesExamples examples(kPrompts, config, 7);
  std::map<std::string, int> counts;
  int wrong_first = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    const SftExample example = examples.draw(i);
    const std::string task = task_of(example);
    ++counts[task];
    for (size_t k = 0; k < example.target.size(); ++k) {
      const bool image = example.target[k].image.has_value();
      EXPECT_EQ(image, k % 2 == 1) << task;
      EXPECT_EQ(example.target[k].text.empty(), image);
      if (image && !example.target[k].trained) ++wrong_first;
    }
    EXPECT_TRUE(example.target.back().trained);
    EXPECT_EQ(example.pictures.size(), example.draws && task != "edit" ? 0U : 1U);
    EXPECT_EQ(example.target.size(), !example.draws ? 1U : task == "mend" ? 4U : 2U);
  }
  // 1000 draws: four standard deviations are at most 58.
  EXPECT_NEAR(counts["answer"], 200, 58);
  EXPECT_NEAR(counts["describe"], 100, 40);
  EXPECT_NEAR(counts["edit"], 300, 58);
  EXPECT_NEAR(counts["mend"], 100, 40);
  EXPECT_NEAR(wrong_first, counts["mend"] / 2, 25);
}

TEST(ShapesExamples, AreAFunctionOfSeedAndIndex) {
  SftConfig config;
  config.edit = 0.5;
  const ShapesExamples one(kPrompts, config, 7), again(kPrompts, config, 7), other(kPrompts, config, 8);
  int same = 0;
  for (int64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(one.draw(49 - i).prompt, again.draw(49 - i).prompt);
    EXPECT_EQ(one.draw(i).target.front().text, again.draw(i).target.front().text);
    same += one.draw(i).target.front().text == other.draw(i).target.front().text ? 1 : 0;
  }
  EXPECT_LT(same, 25);
}

TEST(ShapesExamples, WithoutSharesAllAreDrawings) {
  const ShapesExamples examples(kPrompts, {}, 7);
  for (int64_t i = 0; i < 50; ++i) EXPECT_EQ(task_of(examples.draw(i)), "draw");
}

TEST(BatchIndices, WalkThroughWholePermutations) {
  std::map<int64_t, int> seen;
  for (int64_t step = 0; step < 10; ++step) {
    for (const int64_t index : batch_indices(step, 10, 50, 3)) ++seen[index];
  }
  EXPECT_EQ(seen.size(), 50U);
  for (const auto& [index, times] : seen) EXPECT_EQ(times, 2) << index;
}

}  // namespace
}  // namespace unigrpo::train

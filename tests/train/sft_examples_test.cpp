#include "train/sft_examples.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "base/error.h"
#include "data/prompt_file.h"
#include "io/image_codec.h"
#include "support/temp_folder.h"
#include "support/tensors.h"

namespace unigrpo::train {
namespace {

const std::vector<data::Prompt> kPrompts =
    data::read_prompt_file(UNIGRPO_SOURCE_DIR "/assets/shapes-world/train.jsonl");

/// What an example is, seen from outside.
std::string task_of(const SftExample& example) {
  if (!example.draws) return example.prompt == "what is in the picture?" ? "describe" : "answer";
  if (!example.images.empty()) return "edit";
  return example.target.size() == 4 ? "self_correct" : "draw";
}

TEST(ShapesExamples, TasksComeInTheirSharesAndInTheirForm) {
  recipe::SftConfig config;
  config.answer = 0.2;
  config.describe = 0.1;
  config.edit = 0.3;
  config.self_correct = 0.1;
  config.first_image_noise = 0.5;
  const ShapesExamples examples("train.jsonl", kPrompts, config, 7);
  std::map<std::string, int> counts;
  int first_image_noise = 0;
  for (int64_t i = 0; i < 1000; ++i) {
    const SftExample example = examples.example(i);
    const std::string task = task_of(example);
    ++counts[task];
    for (size_t k = 0; k < example.target.size(); ++k) {
      const bool image = example.target[k].image.has_value();
      EXPECT_EQ(image, k % 2 == 1) << task;
      EXPECT_EQ(example.target[k].text.empty(), image);
      if (image && !example.target[k].trained) ++first_image_noise;
    }
    EXPECT_TRUE(example.target.back().trained);
    EXPECT_EQ(example.images.size(), example.draws && task != "edit" ? 0U : 1U);
    EXPECT_EQ(example.target.size(), !example.draws ? 1U : task == "self_correct" ? 4U : 2U);
  }
  // 1000 draws: four standard deviations are at most 58.
  EXPECT_NEAR(counts["answer"], 200, 58);
  EXPECT_NEAR(counts["describe"], 100, 40);
  EXPECT_NEAR(counts["edit"], 300, 58);
  EXPECT_NEAR(counts["self_correct"], 100, 40);
  EXPECT_NEAR(first_image_noise, counts["self_correct"] / 2, 25);
}

TEST(ShapesExamples, AreAFunctionOfSeedAndIndex) {
  recipe::SftConfig config;
  config.edit = 0.5;
  const ShapesExamples one("train.jsonl", kPrompts, config, 7), again("train.jsonl", kPrompts, config, 7),
      other("train.jsonl", kPrompts, config, 8);
  int same = 0;
  for (int64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(one.example(49 - i).prompt, again.example(49 - i).prompt);
    EXPECT_EQ(one.example(i).target.front().text, again.example(i).target.front().text);
    same += one.example(i).target.front().text == other.example(i).target.front().text ? 1 : 0;
  }
  EXPECT_LT(same, 25);
}

TEST(ShapesExamples, WithoutSharesAllAreDrawings) {
  const ShapesExamples examples("train.jsonl", kPrompts, {}, 7);
  for (int64_t i = 0; i < 50; ++i) EXPECT_EQ(task_of(examples.example(i)), "draw");
}

TEST(RowExamples, AreTheUsersOwnTargets) {
  const testing::TempFolder folder;
  io::write_png(folder.path() / "x.png", {.width = 2, .height = 1, .pixels = {255, 0, 0, 0, 255, 0}});
  recipe::Recipe recipe;
  recipe.sft.batch_size = 2;
  recipe.data.prompts = folder
                            .write("rows.jsonl", R"(
{"prompt": "draw", "target": [{"type": "text", "text": "a plan"}, {"type": "image", "path": "x.png"}, {"type": "text", "text": "done"}]}
{"prompt": "what is it?", "images": ["x.png"], "target": [{"type": "text", "text": "two pixels"}]}
)")
                            .string();
  const auto examples = open_examples(recipe, 3);
  const SftExample drawn = examples->example(0), answer = examples->example(1);
  EXPECT_TRUE(drawn.draws);
  ASSERT_EQ(drawn.target.size(), 3U);
  EXPECT_EQ(drawn.target[0].text, "a plan");
  EXPECT_EQ(drawn.target[1].image->width, 2);
  EXPECT_EQ(drawn.target[2].text, "done");
  EXPECT_FALSE(answer.draws);
  EXPECT_EQ(answer.images.size(), 1U);
  std::vector<int64_t> keys = examples->batch(0);
  std::ranges::sort(keys);
  EXPECT_EQ(keys, (std::vector<int64_t>{0, 1}));

  recipe.data.prompts = folder
                            .write("mixed.jsonl", R"(
{"prompt": "draw", "target": [{"type": "text", "text": "a plan"}]}
{"prompt": "a circle"}
)")
                            .string();
  EXPECT_EQ(testing::message_of<BadInput>([&] { open_examples(recipe, 3); }),
            recipe.data.prompts + ":3: target is missing; other rows of the file have one");
}

TEST(EpochOrder, WalksThroughWholePermutations) {
  const EpochOrder order(50, 3), backwards(50, 3);
  std::vector<int64_t> walked;
  for (int64_t i = 99; i >= 0; --i) walked.push_back(backwards.at(i));
  std::map<int64_t, int> seen;
  for (int64_t i = 0; i < 100; ++i) {
    ++seen[order.at(i)];
    EXPECT_EQ(order.at(i), walked[static_cast<size_t>(99 - i)]);
  }
  EXPECT_EQ(seen.size(), 50U);
  for (const auto& [index, times] : seen) EXPECT_EQ(times, 2) << index;
}

}  // namespace
}  // namespace unigrpo::train

#include "train/sft_pack.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace unigrpo::train {
namespace {

constexpr policy::LatentGrid kGrid{.height = 1, .width = 2};

std::vector<int64_t> ids_of(const policy::Block& block) { return std::get<policy::TextBlock>(block).ids; }

/// System prompt of two tokens, prompt of three, then a text of four and an image.
SftRow example_row() {
  auto example = std::make_shared<EncodedExample>();
  example->system = {policy::TextBlock{{1, 2}}};
  example->prompt = {policy::TextBlock{{1, 5, 2}}};
  example->turns = {{.ids = {1, 6, 7, 2}}, {.latents = at::zeros({2, 3}), .grid = kGrid}};
  SftRow row{.example = example};
  row.images = {{.clean = at::zeros({2, 2, 3}), .noise = at::ones({2, 2, 3}), .t = at::full({2}, 0.25), .grid = kGrid}};
  return row;
}

TEST(SftPack, AnImageIsReadAfterAllBeforeIt) {
  const PackedRows packed = pack(std::vector{example_row()});
  const auto& prefixes = packed.batch.prefixes;
  const auto& sequences = packed.batch.sequences;
  ASSERT_EQ(prefixes.at(0).size(), 2U);
  EXPECT_EQ(ids_of(prefixes[0][0]), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(ids_of(prefixes[0][1]), (std::vector<int64_t>{1, 5, 2}));
  ASSERT_EQ(sequences.at(0).blocks.size(), 2U);
  EXPECT_EQ(ids_of(sequences[0].blocks[0]), (std::vector<int64_t>{1, 6, 7, 2}));
  const auto& noisy = std::get<policy::NoisyBlock>(sequences[0].blocks[1]);
  EXPECT_TRUE(at::allclose(noisy.latents, at::full({2, 2, 3}, 0.25)));
  EXPECT_EQ(packed.target_rows, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(packed.targets, (std::vector<int64_t>{6, 7, 2}));
  EXPECT_EQ(example_row().num_tokens(), 2 + 3 + 4 + 2 * (2 + 2));
}

TEST(SftPack, WithoutPromptTheSystemPromptStays) {
  SftRow row = example_row();
  row.without_prompt = true;
  const PackedRows packed = pack(std::vector{example_row(), row});
  const policy::TrainSequence& sequence = packed.batch.sequences.at(1);
  const auto& prefix = packed.batch.prefixes.at(static_cast<size_t>(sequence.prefix));
  ASSERT_EQ(prefix.size(), 1U);
  EXPECT_EQ(ids_of(prefix[0]), (std::vector<int64_t>{1, 2}));
  ASSERT_EQ(sequence.blocks.size(), 1U);
  EXPECT_TRUE(std::holds_alternative<policy::NoisyBlock>(sequence.blocks[0]));
  EXPECT_EQ(packed.targets.size(), 3U);  // those of the first row
  EXPECT_EQ(row.num_tokens(), 2 + 2 * (2 + 2));
}

TEST(SftPack, MicroBatchesHoldOneSizeOfImagesAndTheBudget) {
  std::vector<SftRow> rows(4, example_row());
  rows[2].images[0].grid = {.height = 2, .width = 2};
  const int64_t own = rows[0].num_tokens();
  const auto sizes = [&](int64_t budget) {
    std::vector<size_t> counts;
    for (const auto& batch : micro_batches(rows, budget)) counts.push_back(batch.size());
    return counts;
  };
  EXPECT_EQ(sizes(100 * own), (std::vector<size_t>{2, 1, 1}));
  EXPECT_EQ(sizes(2 * own - 1), (std::vector<size_t>{1, 1, 1, 1}));
}

}  // namespace
}  // namespace unigrpo::train

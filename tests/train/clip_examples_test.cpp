#include "train/clip_examples.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "data/worlds/av_world.h"
#include "support/refusal.h"
#include "support/temp_folder.h"

namespace unigrpo::train {
namespace {

namespace av = data::av;

std::string rows(int count) {
  std::string lines;
  for (int i = 0; i < count; ++i) {
    const av::Draw draw{.seed = 9, .part = 0, .index = static_cast<uint64_t>(i)};
    lines += av::row_of(av::scene_of(draw), std::to_string(i), draw) + "\n";
  }
  return lines;
}

TEST(ClipExamples, AClipIsAFunctionOfSeedAndRow) {
  const testing::TempFolder folder;
  const std::string file = folder.write("rows.jsonl", rows(12)).string();
  const ClipExamples one(file, 1.0, 5), same(file, 1.0, 5), other(file, 1.0, 6), exact(file, 0.0, 5);
  int differ = 0, spoiled = 0;
  for (int64_t row = 0; row < one.size(); ++row) {
    const media::Clip clip = one.clip(row);
    EXPECT_EQ(clip.sound, same.clip(row).sound);
    EXPECT_EQ(clip.frames, same.clip(row).frames);
    differ += clip.sound != other.clip(row).sound || clip.frames != other.clip(row).frames ? 1 : 0;
    const media::Clip asked = av::render(av::scene_of({.seed = 9, .part = 0, .index = static_cast<uint64_t>(row)}));
    EXPECT_EQ(exact.clip(row).sound, asked.sound);
    EXPECT_EQ(exact.clip(row).frames, asked.frames);
    spoiled += clip.sound != asked.sound || clip.frames != asked.frames ? 1 : 0;
  }
  EXPECT_GT(differ, 2);
  EXPECT_GT(spoiled, 2);
}

TEST(ClipExamples, APassHasEachRowOnce) {
  const testing::TempFolder folder;
  const ClipExamples examples(folder.write("rows.jsonl", rows(12)).string(), 0, 5);
  std::multiset<int64_t> seen;
  for (int64_t step = 0; step < 6; ++step) {
    for (const int64_t row : examples.batch(step, 4)) seen.insert(row);
  }
  for (int64_t row = 0; row < 12; ++row) EXPECT_EQ(seen.count(row), 2U);
}

TEST(ClipExamples, OtherRowsAreRefusedByLine) {
  const testing::TempFolder folder;
  const std::string file = folder.write("rows.jsonl", rows(1) + R"({"prompt": "a cat"})" + "\n").string();
  EXPECT_EQ(testing::refusal([&] { ClipExamples(file, 0, 5); }),
            file + ":2: 'metadata.av.draw' with seed, part and index is missing; expected a row of `unigrpo data av`");
}

}  // namespace
}  // namespace unigrpo::train

#include "reward/builtin/edit.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/worlds/shapes_tasks.h"
#include "reward/builtin/color_detector.h"

namespace unigrpo::reward {
namespace {

namespace shapes = data::shapes;

Detection object(const std::string& class_name, const std::string& color, double x, double y) {
  return {.class_name = class_name,
          .color = color,
          .confidence = 1,
          .left = x - 6,
          .top = y - 6,
          .right = x + 6,
          .bottom = y + 6};
}

const std::string kGreenSquare =
    R"({"include": [{"class": "square", "count": 1, "color": "green"}, {"class": "circle", "count": 1, "color": "red"}],)"
    R"("metadata": {"changed": "square"}})";
const std::vector<Detection> kBefore = {object("square", "blue", 15, 32), object("circle", "red", 48, 32)};

TEST(ScoreEdit, TheChangeAndTheRestMustBothBeRight) {
  auto score = [&](const std::vector<Detection>& after) {
    return score_edit(parse_edit_row(kGreenSquare), kBefore, after, 64, 64);
  };
  const auto right = score({object("square", "green", 16, 33), object("circle", "red", 47, 30)});
  EXPECT_EQ(right.strict, 1);
  EXPECT_EQ(right.soft, 1);
  EXPECT_EQ(right.reason, "");

  const auto unchanged = score(kBefore);
  EXPECT_EQ(unchanged.strict, 0);
  EXPECT_EQ(unchanged.soft, 0);
  EXPECT_EQ(unchanged.reason, "expected green square");

  const auto moved = score({object("square", "green", 16, 33), object("circle", "red", 30, 10)});
  EXPECT_EQ(moved.strict, 0);
  EXPECT_DOUBLE_EQ(moved.soft, 0.5);  // all of GenEval's requirements, one of two objects in its place
  EXPECT_EQ(moved.reason, "the red circle is not where it was");

  const auto swapped = score({object("circle", "red", 15, 32), object("square", "green", 48, 32)});
  EXPECT_EQ(swapped.strict, 0);
  EXPECT_EQ(swapped.soft, 0);  // nothing stayed
}

TEST(ScoreEdit, WhatIsRemovedNeedNotStay) {
  const std::string gone =
      R"({"include": [{"class": "circle", "count": 1, "color": "red"}], "exclude": [{"class": "square", "count": 1}],)"
      R"("metadata": {"changed": "square"}})";
  EXPECT_EQ(
      score_edit(parse_edit_row(gone), kBefore, std::vector<Detection>{object("circle", "red", 48, 32)}, 64, 64).strict,
      1);
  const auto untouched = score_edit(parse_edit_row(gone), kBefore, kBefore, 64, 64);
  EXPECT_EQ(untouched.strict, 0);
  EXPECT_EQ(untouched.soft, 0);
  const std::vector<Detection> another = {object("square", "blue", 15, 32), object("square", "blue", 15, 50),
                                          object("circle", "red", 48, 32)};
  EXPECT_EQ(score_edit(parse_edit_row(gone), kBefore, another, 64, 64).soft, 0);  // worse than before is no progress
}

TEST(EditReward, ScoresDrawnScenesOfTheWorldAndTheirOriginals) {
  const auto reward = make_edit_reward(GenevalMetric::strict, make_color_detector());
  std::vector<data::Sample> right, lazy;
  const auto prompts = shapes::make_split(300).test;
  for (uint64_t i = 0; i < 100; ++i) {
    RandomStream stream({.seed = 5, .sample = i, .purpose = Purpose::world_scene});
    const shapes::TaskRow row = shapes::draw_edit_task(prompts[i % prompts.size()].json, 0, stream);
    data::Sample sample;
    sample.metadata_json = row.fields_json;
    sample.images = {std::make_shared<const Image>(shapes::render(row.image))};
    data::SampleSegment segment;
    segment.kind = data::SegmentKind::image;
    segment.image = shapes::render(*row.drawn);
    sample.segments = {segment};
    right.push_back(sample);
    sample.segments.front().image = shapes::render(row.image);
    lazy.push_back(sample);
    EXPECT_EQ(reward->missing_metadata(row.fields_json), "");
  }
  double sum_right = 0, sum_lazy = 0;
  for (const Score& score : reward->score(right)) sum_right += score.value.value();
  for (const Score& score : reward->score(lazy)) sum_lazy += score.value.value();
  EXPECT_GE(sum_right, 99);  // the detector is right in 99% of exact scenes
  EXPECT_EQ(sum_lazy, 0);
}

TEST(EditReward, SaysWhatARowLacks) {
  const auto reward = make_edit_reward(GenevalMetric::mixed, make_color_detector());
  EXPECT_NE(reward->missing_metadata(R"({"include": [{"class": "circle", "count": 1}]})").find("metadata.changed"),
            std::string::npos);
  EXPECT_NE(reward->missing_metadata(R"({"metadata": {"changed": "square"}})").find("include"), std::string::npos);
  data::Sample sample;
  sample.metadata_json = kGreenSquare;
  EXPECT_EQ(reward->score(std::span(&sample, 1)).front().reason, "no image");
}

}  // namespace
}  // namespace unigrpo::reward

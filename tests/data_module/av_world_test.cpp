#include "data/worlds/av_world.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/hash.h"
#include "support/refusal.h"

namespace unigrpo::data::av {
namespace {

Scene scene_of(uint64_t index, bool for_test = false) {
  RandomStream stream({.seed = 5, .sample = index, .purpose = Purpose::world_scene});
  return draw_scene(for_test, stream);
}

TEST(AvWorld, SameSeedSameBytes) {
  for (uint64_t i = 0; i < 20; ++i) {
    const media::Clip first = render(scene_of(i)), second = render(scene_of(i));
    EXPECT_EQ(first.frames, second.frames);
    EXPECT_EQ(first.sound, second.sound);
    EXPECT_EQ(row_of(scene_of(i), "x"), row_of(scene_of(i), "x"));
  }
  EXPECT_NE(render(scene_of(0)).frames, render(scene_of(1)).frames);
}

TEST(AvWorld, ClipsHaveTheSizesOfTheModel) {
  const media::Clip clip = render(scene_of(3));
  EXPECT_EQ(clip.frames.count, 17);
  EXPECT_EQ(clip.frames.height, 32);
  EXPECT_EQ(clip.frames.width, 32);
  EXPECT_EQ(clip.fps, (media::Rational{16, 1}));
  EXPECT_EQ(clip.sound.channels, 2);
  EXPECT_EQ(clip.sound.length(), 8500);
  EXPECT_EQ(clip.frames_s(), clip.sound_s());
}

TEST(AvWorld, HeldOutPairsAreForTestsAlone) {
  int held_out = 0, silent = 0;
  std::map<SceneKind, int> kinds;
  constexpr int kDraws = 2000;
  for (uint64_t i = 0; i < kDraws; ++i) {
    const Scene train = scene_of(i), test = scene_of(i, true);
    EXPECT_FALSE(is_held_out(train).value_or(false));
    EXPECT_TRUE(is_held_out(test).value_or(true));
    held_out += is_held_out(test).value_or(false) ? 1 : 0;
    silent += train.silent ? 1 : 0;
    ++kinds[train.kind];
  }
  EXPECT_GT(held_out, kDraws / 5);
  EXPECT_NEAR(silent, kDraws / 10, 60);
  EXPECT_EQ(kinds.size(), kSceneNames.size());
  for (const auto& [kind, count] : kinds) EXPECT_GT(count, kDraws / 8);
}

TEST(AvWorld, SilenceIsSilentAndPromptsSaySo) {
  int seen = 0;
  for (uint64_t i = 0; i < 200; ++i) {
    const Scene scene = scene_of(i);
    const bool says = prompt_of(scene).find("in silence") != std::string::npos;
    EXPECT_EQ(says, scene.silent) << prompt_of(scene);
    if (!scene.silent) continue;
    ++seen;
    for (const float sample : render(scene).sound.samples) ASSERT_EQ(sample, 0);
    EXPECT_EQ(row_of(scene, "x").find("pitch"), std::string::npos);
  }
  EXPECT_GT(seen, 5);
}

TEST(AvWorld, ARowSaysWhichSceneItIsOf) {
  const Draw draw{.seed = 5, .part = 1, .index = 3};
  const Scene scene = scene_of(draw);
  EXPECT_EQ(scene, scene_of(draw));
  EXPECT_NE(scene, scene_of(Draw{.seed = 5, .part = 1, .index = 4}));
  const std::string row = row_of(scene, "x", draw), prompt = prompt_of(scene);
  EXPECT_EQ(scene_of_row(row, prompt), scene);
  EXPECT_EQ(testing::refusal([&] { scene_of_row(row, "another"); }),
            "'metadata.av.draw' is of the prompt '" + prompt + "', not of the row's");
  EXPECT_EQ(testing::refusal([&] { scene_of_row(row_of(scene, "x"), prompt); }),
            "'metadata.av.draw' with seed, part and index is missing; expected a row of `unigrpo data av`");
}

TEST(AvWorld, RowsHoldTheTruth) {
  std::set<std::string> prompts;
  for (uint64_t i = 0; i < 300; ++i) {
    const Scene scene = scene_of(i);
    const auto row = nlohmann::json::parse(row_of(scene, "x"));
    prompts.insert(row["prompt"].get<std::string>());
    const auto& av = row["metadata"]["av"];
    EXPECT_EQ(row["tag"], av["scene"]);
    if (scene.silent && scene.events[0].source == Source::hum) {
      EXPECT_TRUE(av["events"].empty());
      continue;
    }
    ASSERT_EQ(av["events"].size(), scene.events.size());
    for (size_t k = 0; k < scene.events.size(); ++k) EXPECT_EQ(av["events"][k]["time"], scene.events[k].time_s);
    EXPECT_EQ(av.contains("camera"), scene.kind == SceneKind::camera);
    EXPECT_EQ(av.contains("side"), scene.kind == SceneKind::side);
    EXPECT_EQ(av.contains("syllables"), scene.kind == SceneKind::mouth);
  }
  EXPECT_GT(prompts.size(), 150U);
}

TEST(AvWorld, ExamplesForSftAreWrongAsOftenAsTheyAreMeantToBe) {
  int late = 0, pitch = 0, order = 0, pitches = 0, orders = 0;
  constexpr int kDraws = 2000;
  for (uint64_t i = 0; i < kDraws; ++i) {
    const Scene asked = scene_of(i);
    RandomStream stream({.seed = 6, .sample = i});
    const Scene shown = spoiled(asked, stream);
    late += shown.events[0].sound_time_s != asked.events[0].sound_time_s ? 1 : 0;
    pitches += asked.events[0].pitch >= 0 ? 1 : 0;
    pitch += shown.events[0].pitch != asked.events[0].pitch ? 1 : 0;
    orders += asked.kind == SceneKind::two_events ? 1 : 0;
    order += shown.events[0].source != asked.events[0].source ? 1 : 0;
    EXPECT_EQ(shown.events[0].time_s, asked.events[0].time_s);
  }
  EXPECT_NEAR(double(late) / kDraws, 0.42, 0.05);  // half, less those at 0 that would come earlier
  EXPECT_NEAR(double(pitch) / pitches, 0.2, 0.04);
  EXPECT_NEAR(double(order) / orders, 0.25, 0.07);
}

}  // namespace
}  // namespace unigrpo::data::av

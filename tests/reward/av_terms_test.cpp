#include "reward/builtin/av_terms.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/worlds/av_world.h"

namespace unigrpo::reward {
namespace {

namespace av = data::av;

struct Case {
  av::Scene scene;
  std::string row;
  media::Clip clip;
};

/// The n-th test scene of a kind; silent or not.
Case case_of(av::SceneKind kind, int n, bool silent = false) {
  for (uint64_t index = 0;; ++index) {
    RandomStream stream({.seed = 31, .sample = index, .purpose = Purpose::world_scene});
    const av::Scene scene = av::draw_scene(true, stream);
    if (scene.kind != kind || scene.silent != silent || n-- > 0) continue;
    return {scene, av::row_of(scene, "x"), av::render(scene)};
  }
}

double value_of(AvTerm term, const media::Clip& clip, const std::string& row) {
  return av_score(term, clip, row).value.value_or(-1);
}

media::Clip rendered(av::Scene scene) { return av::render(scene); }

TEST(AvTerms, TrueClipsGetNearlyOne) {
  const std::vector<std::pair<AvTerm, av::SceneKind>> cases = {
      {AvTerm::av_sync, av::SceneKind::bounce},       {AvTerm::av_sync, av::SceneKind::two_events},
      {AvTerm::av_lip, av::SceneKind::mouth},         {AvTerm::av_pitch, av::SceneKind::bounce},
      {AvTerm::av_pitch, av::SceneKind::side},        {AvTerm::av_pitch, av::SceneKind::camera},
      {AvTerm::av_camera, av::SceneKind::camera},     {AvTerm::av_order, av::SceneKind::two_events},
      {AvTerm::av_side, av::SceneKind::side},         {AvTerm::av_quality, av::SceneKind::bounce},
      {AvTerm::av_quality, av::SceneKind::mouth},     {AvTerm::av_quality, av::SceneKind::camera},
      {AvTerm::av_quality, av::SceneKind::two_events}};
  for (const auto& [term, kind] : cases) {
    for (int n = 0; n < 10; ++n) {
      const Case one = case_of(kind, n);
      EXPECT_GE(value_of(term, one.clip, one.row), 0.9) << enum_name(term) << " of " << one.row;
    }
  }
}

TEST(AvTerms, ShapesAndColoursAreRead) {
  for (const av::SceneKind kind :
       {av::SceneKind::bounce, av::SceneKind::camera, av::SceneKind::two_events, av::SceneKind::side}) {
    double sum = 0;
    constexpr int kClips = 25;
    for (int n = 0; n < kClips; ++n) {
      const Case one = case_of(kind, n);
      sum += value_of(AvTerm::av_shape, one.clip, one.row) / kClips;
    }
    EXPECT_GE(sum, 0.93) << static_cast<int>(kind);
  }
  const Case one = case_of(av::SceneKind::side, 3);
  av::Scene scene = one.scene;
  scene.bodies[0].color = static_cast<data::shapes::Color>((static_cast<int>(scene.bodies[0].color) + 2) % 6);
  EXPECT_NEAR(value_of(AvTerm::av_shape, rendered(scene), one.row), 2.0 / 3, 1e-6);  // there, one, another colour
  media::Clip empty = one.clip;
  std::ranges::fill(empty.frames.pixels, uint8_t{210});
  const Score none = av_score(AvTerm::av_shape, empty, one.row);
  EXPECT_EQ(none.value, 0.0);
  EXPECT_TRUE(none.notes.at("middle").starts_with("no ")) << none.notes.at("middle");
  const Case mouth = case_of(av::SceneKind::mouth, 0);
  EXPECT_EQ(av_score(AvTerm::av_shape, mouth.clip, mouth.row).reason, "the prompt asks for no object");
}

TEST(AvTerms, WhatIsNotAskedForHasNoScore) {
  const Case bounce = case_of(av::SceneKind::bounce, 0), quiet = case_of(av::SceneKind::bounce, 0, true);
  for (const AvTerm term : {AvTerm::av_lip, AvTerm::av_camera, AvTerm::av_order, AvTerm::av_side}) {
    const Score score = av_score(term, bounce.clip, bounce.row);
    EXPECT_FALSE(score.value) << enum_name(term);
    EXPECT_TRUE(score.reason.starts_with("the prompt asks for no ")) << score.reason;
  }
  EXPECT_FALSE(av_score(AvTerm::av_sync, quiet.clip, quiet.row).value);
  EXPECT_FALSE(av_score(AvTerm::av_pitch, quiet.clip, quiet.row).value);
  EXPECT_EQ(value_of(AvTerm::av_quality, quiet.clip, quiet.row), 1);
  EXPECT_THROW(av_score(AvTerm::av_sync, bounce.clip, R"({"metadata": {}})"), BadInput);
  EXPECT_THROW(av_score(AvTerm::av_sync, bounce.clip, R"({"metadata": {"av": {"scene": 3}}})"), BadInput);
}

TEST(AvTerms, SyncFallsWithTheOffset) {
  const Case one = case_of(av::SceneKind::bounce, 1);
  for (const double offset_s : {-0.12, -0.06, 0.06, 0.12}) {
    av::Scene scene = one.scene;
    scene.events[0].sound_time_s += offset_s;
    EXPECT_NEAR(value_of(AvTerm::av_sync, rendered(scene), one.row), std::exp(-std::pow(offset_s / 0.06, 2)), 0.12);
  }
}

// Acceptance A6: each hack of the sync reward stays below 0.1.
TEST(AvTerms, AClickAtEveryFrameIsNoSync) {
  for (int n = 0; n < 20; ++n) {
    Case one = case_of(av::SceneKind::bounce, n);
    std::ranges::fill(one.clip.sound.samples, 0.0F);
    for (int k = 0; k < av::kFrames; ++k) {
      for (int i = 0; i < 40; ++i) {
        for (int c = 0; c < 2; ++c)
          one.clip.sound.channel(c)[k * 500 + i] = 0.9F * static_cast<float>(std::exp(-i / 8.0));
      }
    }
    EXPECT_LT(value_of(AvTerm::av_sync, one.clip, one.row), 0.1);
  }
}

TEST(AvTerms, SilenceIsNoSync) {
  Case one = case_of(av::SceneKind::bounce, 0);
  std::ranges::fill(one.clip.sound.samples, 0.0F);
  const Score score = av_score(AvTerm::av_sync, one.clip, one.row);
  EXPECT_EQ(score.value, 0.0);
  EXPECT_EQ(score.reason, "no onset heard");
}

TEST(AvTerms, AStillPictureIsNoSync) {
  Case one = case_of(av::SceneKind::bounce, 0);
  for (int64_t k = 1; k < one.clip.frames.count; ++k) {
    std::copy_n(one.clip.frames.frame(0), one.clip.frames.frame_bytes(), one.clip.frames.frame(k));
  }
  const Score score = av_score(AvTerm::av_sync, one.clip, one.row);
  EXPECT_EQ(score.value, 0.0);
  EXPECT_EQ(score.reason, "no contact seen");
}

TEST(AvTerms, LoudNoiseIsNoSync) {
  for (int n = 0; n < 20; ++n) {
    Case one = case_of(av::SceneKind::bounce, n);
    RandomStream stream({.seed = static_cast<uint64_t>(n)});
    for (float& sample : one.clip.sound.samples) sample = static_cast<float>(stream.uniform(-1, 1));
    EXPECT_LT(value_of(AvTerm::av_sync, one.clip, one.row), 0.1);
  }
}

TEST(AvTerms, WrongPitchOrderSideAndCameraAreTold) {
  Case bounce = case_of(av::SceneKind::bounce, 2);
  av::Scene scene = bounce.scene;
  scene.events[0].pitch = (scene.events[0].pitch + 1) % 12;
  EXPECT_NEAR(value_of(AvTerm::av_pitch, rendered(scene), bounce.row), 2.0 / 3, 0.05);
  scene.events[0].pitch = (scene.events[0].pitch + 5) % 12;
  EXPECT_EQ(value_of(AvTerm::av_pitch, rendered(scene), bounce.row), 0);

  Case two = case_of(av::SceneKind::two_events, 0);
  for (int n = 1; two.scene.bodies[0].color == two.scene.bodies[1].color; ++n)
    two = case_of(av::SceneKind::two_events, n);
  scene = two.scene;
  std::swap(scene.events[0].source, scene.events[1].source);
  EXPECT_EQ(value_of(AvTerm::av_order, rendered(scene), two.row), 0.5);
  std::swap(scene.bodies[0].color, scene.bodies[1].color);
  EXPECT_EQ(value_of(AvTerm::av_order, rendered(scene), two.row), 0);

  Case side = case_of(av::SceneKind::side, 0);
  scene = side.scene;
  scene.bodies[0].x = 32 - scene.bodies[0].x;
  EXPECT_EQ(value_of(AvTerm::av_side, rendered(scene), side.row), 0);
  media::Clip mono = side.clip;
  std::copy_n(mono.sound.channel(0), mono.sound.length(), mono.sound.channel(1));
  EXPECT_NEAR(value_of(AvTerm::av_side, mono, side.row), 0.5, 1e-6);

  Case camera = case_of(av::SceneKind::camera, 0);
  for (int n = 1; camera.scene.move == av::Move::still; ++n) camera = case_of(av::SceneKind::camera, n);
  scene = camera.scene;
  scene.camera = {.dx = scene.camera.dx / 2, .dy = scene.camera.dy / 2, .zoom = scene.camera.zoom / 2};
  EXPECT_NEAR(value_of(AvTerm::av_camera, rendered(scene), camera.row), 0.5, 0.05);
  scene.camera = {.dx = -scene.camera.dx, .dy = -scene.camera.dy, .zoom = -scene.camera.zoom};
  EXPECT_EQ(value_of(AvTerm::av_camera, rendered(scene), camera.row), 0);
}

TEST(AvTerms, SyllablesThatDoNotMatchAreNoLipSync) {
  const Case one = case_of(av::SceneKind::mouth, 0);
  av::Scene scene = one.scene;
  scene.events.pop_back();
  EXPECT_EQ(value_of(AvTerm::av_lip, rendered(scene), one.row), 0);
  scene = one.scene;
  for (av::Event& event : scene.events) event.sound_time_s += 0.06;
  EXPECT_NEAR(value_of(AvTerm::av_lip, rendered(scene), one.row), std::exp(-1), 0.12);
}

TEST(AvTerms, QualityFallsWithFlickerClippingAndHum) {
  const Case one = case_of(av::SceneKind::bounce, 0), quiet = case_of(av::SceneKind::bounce, 0, true);
  media::Clip clip = one.clip;
  for (int64_t k = 1; k < clip.frames.count; k += 2) {
    for (size_t i = 0; i < clip.frames.frame_bytes(); ++i)
      clip.frames.frame(k)[i] = static_cast<uint8_t>(clip.frames.frame(k)[i] / 2);
  }
  EXPECT_LT(value_of(AvTerm::av_quality, clip, one.row), 0.1);
  clip = one.clip;
  for (float& sample : clip.sound.samples) sample = std::clamp(20 * sample, -1.0F, 1.0F);
  EXPECT_LT(value_of(AvTerm::av_quality, clip, one.row), 0.1);
  clip = quiet.clip;
  for (int64_t i = 0; i < clip.sound.length(); ++i)
    clip.sound.channel(0)[i] = 0.3F * static_cast<float>(std::sin(0.2 * double(i)));
  EXPECT_LT(value_of(AvTerm::av_quality, clip, quiet.row), 0.1);
}

}  // namespace
}  // namespace unigrpo::reward

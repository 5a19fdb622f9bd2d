// Acceptance of the detectors of src/media/detect on rendered test clips, whose truth is exact.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "data/worlds/av_world.h"
#include "media/detect/hearing.h"
#include "media/detect/motion.h"

namespace unigrpo::data::av {
namespace {

namespace detect = media::detect;

constexpr int kClips = 100;  // of each of five kinds of scene

/// Test scenes of one kind that are not silent.
template <typename Visit>
void for_scenes(SceneKind kind, Visit visit) {
  uint64_t index = 0;
  for (int found = 0; found < kClips; ++index) {
    RandomStream stream({.seed = 21, .sample = index, .purpose = Purpose::world_scene});
    const Scene scene = draw_scene(true, stream);
    if (scene.kind != kind || scene.silent) continue;
    ++found;
    SCOPED_TRACE(fmt::format("seed 21, scene {}: {}", index, prompt_of(scene)));
    visit(scene, render(scene));
  }
}

double p95(std::vector<double> errors) {
  if (errors.empty()) return 1e9;
  std::ranges::sort(errors);
  return errors[static_cast<size_t>(0.95 * static_cast<double>(errors.size() - 1))];
}

TEST(AvDetectors, FindContactOnsetAndPitchOfBounces) {
  std::vector<double> contact_errors, onset_errors;
  int pitches = 0;
  for_scenes(SceneKind::bounce, [&](const Scene& scene, const media::Clip& clip) {
    const Event& event = scene.events[0];
    const auto tracks = detect::track_objects(clip.frames);
    const detect::Contact contact =
        tracks.size() == 1 ? detect::find_contact(tracks[0], clip.fps) : detect::Contact{.reason = "?"};
    contact_errors.push_back(contact.reason.empty() ? std::abs(contact.time_s - event.time_s) : 1);
    const auto onsets = detect::find_onsets(clip.sound);
    onset_errors.push_back(onsets.size() == 1 ? std::abs(onsets[0] - event.time_s) : 1);
    const auto pitch = detect::find_pitch(clip.sound, event.time_s);
    pitches += pitch && detect::class_distance(detect::semitones_of(*pitch), event.pitch) < 0.5 ? 1 : 0;
  });
  std::printf("contact p95 %.1f ms, onset p95 %.1f ms, pitch class %.1f%%\n", 1e3 * p95(contact_errors),
              1e3 * p95(onset_errors), 100.0 * pitches / kClips);
  EXPECT_LE(p95(contact_errors), 0.008);
  EXPECT_LE(p95(onset_errors), 0.008);
  EXPECT_GE(pitches, 0.99 * kClips);
}

TEST(AvDetectors, FindTheCamera) {
  int directions = 0, moving = 0;
  std::vector<double> errors;
  for_scenes(SceneKind::camera, [&](const Scene& scene, const media::Clip& clip) {
    const detect::CameraMotion found = detect::find_camera(clip.frames, clip.fps);
    const Camera& asked = scene.camera;
    constexpr double kZoomPixels = 50;  // one e-fold a second as pixels a second: the same size for both
    const double size = std::hypot(asked.dx, asked.dy, kZoomPixels * asked.zoom);
    const double off = std::hypot(found.dx - asked.dx, found.dy - asked.dy, kZoomPixels * (found.zoom - asked.zoom));
    if (size == 0) {
      directions += off < 1 ? 1 : 0;
      return;
    }
    ++moving;
    errors.push_back(off / size);
    directions += off < size / 2 ? 1 : 0;
  });
  std::printf("camera direction %.1f%%, error of the speed p95 %.1f%% of %d\n", 100.0 * directions / kClips,
              100 * p95(errors), moving);
  EXPECT_GE(directions, 0.99 * kClips);
  EXPECT_LE(p95(errors), 0.05);
}

TEST(AvDetectors, FindTheOrderOfTwoEvents) {
  int seen = 0, heard = 0;
  for_scenes(SceneKind::two_events, [&](const Scene& scene, const media::Clip& clip) {
    const auto tracks = detect::track_objects(clip.frames);
    if (tracks.size() == 2) {
      const detect::Contact left = detect::find_contact(tracks[0], clip.fps),
                            right = detect::find_contact(tracks[1], clip.fps);
      const bool left_first = scene.bodies[0].x < scene.bodies[1].x;
      seen += left.reason.empty() && right.reason.empty() && (left.time_s < right.time_s) == left_first ? 1 : 0;
    }
    const auto onsets = detect::find_onsets(clip.sound);
    if (onsets.size() != 2) return;
    const bool bell_first =
        detect::spectral_center(clip.sound, onsets[0]) > detect::spectral_center(clip.sound, onsets[1]);
    heard += bell_first == (scene.events[0].source == Source::bell) ? 1 : 0;
  });
  std::printf("order seen %.1f%%, heard %.1f%%\n", 100.0 * seen / kClips, 100.0 * heard / kClips);
  EXPECT_GE(seen, 0.99 * kClips);
  EXPECT_GE(heard, 0.99 * kClips);
}

TEST(AvDetectors, CountSyllables) {
  int seen = 0, heard = 0;
  std::vector<double> offsets;
  for_scenes(SceneKind::mouth, [&](const Scene& scene, const media::Clip& clip) {
    const auto openings = detect::find_openings(detect::mouth_heights(clip.frames), clip.fps);
    const auto bursts = detect::find_bursts(detect::envelope(clip.sound));
    seen += openings.size() == scene.events.size() ? 1 : 0;
    heard += bursts.size() == scene.events.size() ? 1 : 0;
    for (size_t i = 0; i < std::min(bursts.size(), scene.events.size()); ++i) {
      offsets.push_back(std::abs(bursts[i] - scene.events[i].time_s));
    }
  });
  std::printf("syllables seen %.1f%%, heard %.1f%%, bursts' times p95 %.1f ms\n", 100.0 * seen / kClips,
              100.0 * heard / kClips, 1e3 * p95(offsets));
  EXPECT_GE(seen, 0.97 * kClips);
  EXPECT_GE(heard, 0.97 * kClips);
}

TEST(AvDetectors, FindTheSide) {
  int seen = 0, heard = 0;
  for_scenes(SceneKind::side, [&](const Scene& scene, const media::Clip& clip) {
    const bool right = scene.bodies[0].x > kSide / 2.0;
    const auto tracks = detect::track_objects(clip.frames);
    seen += tracks.size() == 1 && (tracks[0].places[8].x > kSide / 2.0) == right ? 1 : 0;
    heard += (detect::right_level(clip.sound) > 3) == right && std::abs(detect::right_level(clip.sound)) > 3 ? 1 : 0;
  });
  EXPECT_EQ(seen, kClips);
  EXPECT_EQ(heard, kClips);
}

TEST(AvDetectors, SilenceHasNoEvents) {
  const media::Sound silence = {.channels = 2, .rate = kRate, .samples = std::vector<float>(2 * kSamples)};
  EXPECT_TRUE(detect::find_onsets(silence).empty());
  EXPECT_FALSE(detect::find_pitch(silence, 0.2));
  EXPECT_TRUE(detect::find_bursts(detect::envelope(silence)).empty());
  EXPECT_EQ(detect::right_level(silence), 0);
  EXPECT_TRUE(detect::find_onsets({}).empty());
}

}  // namespace
}  // namespace unigrpo::data::av

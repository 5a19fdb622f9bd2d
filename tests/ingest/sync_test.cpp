// Whether sound that was shifted is found, and put back, in clips of the embedded world (specification A13).
#include <algorithm>
#include <cmath>

#include "data/worlds/av_world.h"
#include "ingest/set.h"

namespace unigrpo::ingest {
namespace {

using data::av::SceneKind;
using nlohmann::json;

/// A scene of a kind that is heard, whose sound is as late as asked for; what is moved out of the clip is lost.
media::Clip scene_clip(SceneKind kind, double late_s, uint64_t sample) {
  RandomStream stream({.seed = 11, .sample = sample, .purpose = Purpose::world_scene});
  data::av::Scene scene;
  do scene = data::av::draw_scene(false, stream);
  while (scene.kind != kind || scene.silent);
  media::Clip clip = data::av::render(scene);
  const int64_t length = clip.sound.length(), by = std::llround(late_s * clip.sound.rate);
  const media::Sound sound = clip.sound;
  for (int c = 0; c < 2; ++c) {
    for (int64_t i = 0; i < length; ++i) {
      clip.sound.channel(c)[i] = i - by >= 0 && i - by < length ? sound.channel(c)[i - by] : 0.0F;
    }
  }
  return clip;
}

struct Counts {
  int good = 0, lost = 0, shifted = 0, found = 0;
  std::vector<double> residual_s;  // of those repaired
};

/// `count` clips of kinds in turn, a fifth of them shifted by 150 to 400 ms, through probe and sync.
Counts sift(const std::vector<SceneKind>& kinds, int count) {
  const Set set;
  std::map<std::string, double> late_s;
  for (int i = 0; i < count; ++i) {
    RandomStream stream({.seed = 5, .sample = static_cast<uint64_t>(i)});
    const double magnitude_s = stream.uniform(0.15, 0.4);
    const std::string name = fmt::format("{:04}.mp4", i);
    late_s[name] = i % 5 == 4 ? (stream.chance(0.5) ? magnitude_s : -magnitude_s) : 0;
    set.add(name, scene_clip(kinds[static_cast<size_t>(i / 5) % kinds.size()], late_s[name], static_cast<uint64_t>(i)));
  }
  Counts counts;
  for (const json& row : set.run_named({"probe", "sync"}).rows) {
    const double off_s = late_s.at(row["id"]);
    const bool dropped = row.contains("dropped");
    const double shift_s = row.contains("repairs") ? row["repairs"]["shift_s"].get<double>() : 0;
    if (!dropped && shift_s != 0) counts.residual_s.push_back(std::abs(off_s + shift_s));
    // Moved by more than what is tolerated, a good clip is lost as well.
    (off_s == 0 ? counts.good : counts.shifted) += 1;
    if (off_s == 0) counts.lost += dropped || std::abs(shift_s) > 0.125;
    if (off_s != 0) counts.found += dropped || std::abs(shift_s) > 0.125;
  }
  std::ranges::sort(counts.residual_s);
  return counts;
}

double share(int part, int of) { return static_cast<double>(part) / of; }

TEST(Sync, FindsShiftedSoundAndPutsItBack) {
  const Counts counts = sift({SceneKind::bounce, SceneKind::two_events}, 100);
  EXPECT_EQ(counts.shifted, 20);
  EXPECT_GE(share(counts.found, counts.shifted), 0.9);
  EXPECT_LE(share(counts.lost, counts.good), 0.1);
  ASSERT_GE(counts.residual_s.size(), 12U);
  EXPECT_LE(counts.residual_s[counts.residual_s.size() * 9 / 10], 0.03);
}

TEST(Sync, AMouthThatRepeatsItselfIsJudgedByItsWholeRhythm) {
  const Counts counts = sift({SceneKind::mouth}, 50);
  EXPECT_LE(share(counts.lost, counts.good), 0.1);
  EXPECT_GE(share(counts.found, counts.shifted), 0.7);
}

}  // namespace
}  // namespace unigrpo::ingest

// A folder of 60 files, half of them bad (specification A12): each gets its reason, whatever the number of workers and
// however often the run is killed.
#include "ingest/pipeline.h"

#include <cstdlib>
#include <limits>

#include "base/error.h"
#include "base/fault.h"
#include "data/worlds/av_world.h"
#include "ingest/set.h"
#include "io/atomic_file.h"
#include "media/clips.h"
#include "media/wav.h"
#include "support/mutate.h"

namespace unigrpo::ingest {
namespace {

namespace fs = std::filesystem;
namespace av = data::av;
using nlohmann::json;

/// A thing that falls with a tone, both at `time_s`.
av::Scene bounce(uint64_t sample, double time_s = 0.5) {
  RandomStream stream({.seed = 23, .sample = sample, .purpose = Purpose::world_scene});
  av::Scene scene;
  do scene = av::draw_scene(false, stream);
  while (scene.kind != av::SceneKind::bounce || scene.silent);
  scene.events[0].time_s = scene.events[0].sound_time_s = time_s;
  scene.events[0].pitch = static_cast<int>(sample % 12);
  return scene;
}

media::Clip bounce_clip(uint64_t sample) {
  return av::render(bounce(sample, 0.35 + 0.01 * static_cast<double>(sample)));
}

/// Each pixel of each frame anew.
template <typename Color>
media::Clip painted(media::Clip clip, const Color& color) {
  for (int64_t k = 0; k < clip.frames.count; ++k) {
    for (int y = 0; y < clip.frames.height; ++y) {
      for (int x = 0; x < clip.frames.width; ++x) {
        uint8_t* p = clip.frames.frame(k) + 3 * (y * clip.frames.width + x);
        for (int c = 0; c < 3; ++c) p[c] = static_cast<uint8_t>(color(k, x, y, p[c]));
      }
    }
  }
  return clip;
}

/// Twice as large on black, the picture within `width` x `height` of it.
media::Clip with_bars(const media::Clip& clip, int width, int height) {
  media::Clip large = clip;
  const int side = 2 * clip.frames.width;
  large.frames = {.count = clip.frames.count, .height = side, .width = side, .pixels = {}};
  large.frames.pixels.resize(static_cast<size_t>(clip.frames.count) * large.frames.frame_bytes());
  return painted(large, [&](int64_t k, int x, int y, int) -> int {
    const int u = x - (side - width) / 2, v = y - (side - height) / 2;
    if (u < 0 || v < 0 || u >= width || v >= height) return 0;
    return clip.frames.frame(
        k)[3 * (v * clip.frames.height / height * clip.frames.width + u * clip.frames.width / width)];
  });
}

media::Clip with_gain(media::Clip clip, float left, float right) {
  for (int64_t i = 0; i < clip.sound.length(); ++i) {
    clip.sound.channel(0)[i] = std::clamp(clip.sound.channel(0)[i] * left, -1.0F, 1.0F);
    clip.sound.channel(1)[i] = std::clamp(clip.sound.channel(1)[i] * right, -1.0F, 1.0F);
  }
  return clip;
}

/// Two clips, one behind the other.
media::Clip joined(media::Clip first, const media::Clip& second) {
  first.frames.pixels.insert(first.frames.pixels.end(), second.frames.pixels.begin(), second.frames.pixels.end());
  first.frames.count += second.frames.count;
  media::Sound sound = {.channels = 2, .rate = first.sound.rate, .samples = {}};
  for (int c = 0; c < 2; ++c) {
    for (const media::Sound* part : {&std::as_const(first.sound), &second.sound}) {
      sound.samples.insert(sound.samples.end(), part->channel(c), part->channel(c) + part->length());
    }
  }
  first.sound = std::move(sound);
  return first;
}

using Reasons = std::map<std::string, std::string>;

/// Files that are kept, some of them repaired.
void add_good(const Set& set, Reasons& expected) {
  for (uint64_t i = 0; i < 22; ++i) {
    const std::string name = fmt::format("good/{:02}.mp4", i);
    set.add(name, bounce_clip(i));
    expected[name] = "";
  }
  set.add("bars.mp4", with_bars(bounce_clip(30), 64, 40));
  set.add("left_only.mp4", with_gain(bounce_clip(31), 1, 0));
  av::Scene late = bounce(32, 0.4);
  late.events[0].sound_time_s = 0.6;
  set.add("late.mp4", av::render(late));
  set.add("sidecar.mp4", bounce_clip(33));
  set.write("sidecar.json", R"({"video": "A thing falls.", "speech": "ouch", "speaker": "a child", "views": 7})");
  set.add("text.mp4", bounce_clip(34));
  set.write("text.txt", "something drops\n");
  for (const char* name : {"bars.mp4", "left_only.mp4", "late.mp4", "sidecar.mp4", "text.mp4"}) expected[name] = "";
  // Two shots, and a file whose end is missing.
  const media::Clip dark_ground = painted(bounce_clip(36), [](int64_t, int, int, int v) { return v / 3 + 10; });
  set.add("two_shots.mp4", joined(bounce_clip(35), dark_ground));
  expected["two_shots.mp4#0"] = expected["two_shots.mp4#1"] = "";
  media::Clip slow = av::render(bounce(37, 0.35));
  slow.fps = {8, 1};
  slow.sound.rate /= 2;
  set.add("whole.mp4", slow);
  const std::string bytes = io::read_text_file(set.in() / "whole.mp4");
  fs::remove(set.in() / "whole.mp4");
  set.write("cut.mp4", bytes.substr(0, bytes.size() * 8 / 10));
  expected["cut.mp4"] = "";
}

/// Files that cannot be read, or not as clips.
void add_unreadable(const Set& set, Reasons& expected) {
  const auto bad = [&](const std::string& name, const std::string& bytes, const char* reason) {
    set.write(name, bytes);
    expected[name] = reason;
  };
  bad("empty.mp4", "", "no streams");
  bad("letter.mp4", "Dear reader,\nthis is a letter.\n", "no streams");
  bad("zeros.mp4", std::string(5000, '\0'), "no streams");
  bad("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "no streams");
  RandomStream stream({.seed = 3});
  std::string noise;
  for (int i = 0; i < 20'000; ++i) noise += static_cast<char>(stream.below(256));
  bad("noise.mp4", noise, "no streams");
  set.add("short.mp4", media::moving_disc({.count = 7}));
  set.add("early.mp4", media::moving_disc({.count = 17}));
  const std::string whole = io::read_text_file(set.in() / "early.mp4");
  bad("early.mp4", whole.substr(0, whole.find("mdat") + (whole.size() - whole.find("mdat")) / 2), "truncated");
  std::string huge = whole;
  const size_t size_at = huge.find("avc1", huge.find("stsd")) + 28;  // width and height in the sample's description
  for (size_t i = 0; i < 4; ++i) huge[size_at + i] = '\x7f';
  bad("huge.mp4", huge, "too large");
  set.write("name_\xff.mp4", whole);
  expected["name_\xEF\xBF\xBD.mp4"] = "bad name";
  media::Clip mute = media::moving_disc({.count = 17});
  mute.sound = {};
  set.add("mute.mp4", mute);
  media::write_wav(set.in() / "song.wav", media::moving_disc({.count = 17}).sound);
  for (const auto& [name, reason] :
       Reasons{{"short.mp4", "too short"}, {"mute.mp4", "no audio"}, {"song.wav", "no video"}}) {
    expected[name] = reason;
  }
}

/// Files that our writer does not make.
void add_others(const Set& set, Reasons& expected) {
  const std::string in = set.in().string() + "/";
  const std::string picture = "-f lavfi -i testsrc=size=64x48:rate=25:duration=2 -f lavfi -i sine=duration=2 ";
  const auto bad = [&](const std::string& name, const std::string& arguments, const char* reason) {
    ASSERT_TRUE(media::ffmpeg(arguments + " " + in + name)) << name;
    expected[name] = reason;
  };
  bad("last.mp4", picture + "-c:v libx264 -c:a aac", "no streams");
  const std::string last = io::read_text_file(set.in() / "last.mp4");
  set.write("last.mp4", last.substr(0, last.size() / 2));  // without its index, which stands last
  ASSERT_TRUE(media::ffmpeg("-f lavfi -i testsrc=size=64x48 -frames:v 1 " + in + "cover.png"));
  bad("cover.mp4",
      "-f lavfi -i sine=duration=2 -i " + in +
          "cover.png -map 0 -map 1 -c:a aac -c:v png -disposition:v:0 attached_pic",
      "no video");
  fs::remove(in + "cover.png");
  bad("hdr.mp4", picture + "-c:v libx264 -color_trc smpte2084 -color_primaries bt2020 -c:a aac", "HDR");
  bad("locked.mp4",
      picture +
          "-c:v libx264 -c:a aac -encryption_scheme cenc-aes-ctr -encryption_key 76a6c65c5ea762046bd749a2e632ccbb "
          "-encryption_kid a7e61c373e219033c21091fa607bf3b8",
      "encrypted");
  const std::vector<float> samples(96'000, std::numeric_limits<float>::quiet_NaN());
  set.write("nan.raw", std::string(reinterpret_cast<const char*>(samples.data()), samples.size() * sizeof(float)));
  bad("nan.mkv",
      "-f lavfi -i testsrc=size=64x48:rate=25:duration=2 -f f32le -ar 48000 -ac 1 -i " + in +
          "nan.raw -c:v libx264 -c:a copy",
      "bad samples");
  fs::remove(in + "nan.raw");
  bad("clipped.mkv", picture + "-af volume=30dB -c:v libx264 -c:a pcm_s16le", "clipped");
}

/// Files that nobody can learn from.
void add_unfit(const Set& set, Reasons& expected) {
  const auto bad = [&](const std::string& name, const media::Clip& clip, const char* reason) {
    set.add(name, clip);
    expected[name] = reason;
  };
  const media::Clip clip = bounce_clip(50);
  bad("dark.mp4", painted(clip, [](int64_t, int, int, int v) { return v / 10; }), "dark");
  bad("black.mp4", painted(clip, [](int64_t, int, int, int) { return 0; }), "plain picture");
  bad("frozen.mp4", painted(clip, [&](int64_t, int x, int y, int) { return clip.frames.frame(0)[3 * (32 * y + x)]; }),
      "frozen");
  bad("silent.mp4", with_gain(clip, 0, 0), "silent");
  bad("letters.mp4",
      painted(clip, [](int64_t k, int x, int y, int) { return (x / 2 + y / 2 + k / 4) % 2 == 0 ? 250 : 5; }), "text");
  bad("slit.mp4", with_bars(bounce_clip(52), 16, 64), "bars");
  av::Scene hum = bounce(53);
  hum.events.push_back({.source = av::Source::hum, .pitch = 3});
  hum.events.erase(hum.events.begin());
  hum.events[0].time_s = 0.5;
  bad("hum.mp4", av::render(hum), "no sync");
  av::Scene off = bounce(54, 0.78);
  off.events[0].sound_time_s = 0.12;
  bad("off.mp4", av::render(off), "out of sync");
  for (const uint64_t i : {0, 1, 2, 4}) {
    const std::string name = fmt::format("copy_{}.mp4", i);
    set.add(name, bounce_clip(i), {.crf = 26, .audio_bit_rate = 96'000});
    expected[name] = "duplicate";
  }
  set.add("bad_sidecar.mp4", bounce_clip(55));
  set.write("bad_sidecar.json", R"({"video": 7})");
  expected["bad_sidecar.mp4"] = "bad sidecar";
  // Half a second each, between cuts.
  bad("half.mp4", painted(clip, [](int64_t k, int x, int, int v) { return k < 8 ? v : 40 + 5 * x; }), "");
  expected.erase("half.mp4");
  expected["half.mp4#0"] = expected["half.mp4#1"] = "short shot";
}

/// What became of each file, or of each of its clips where it has several: of all manifests the last word.
Reasons outcomes(const fs::path& out) {
  Reasons by_id, reasons;
  for (const char* stage : kStageNames) {
    for (const auto& [id, reason] : reasons_of(read_manifest(manifest_path(out, stage)))) {
      by_id.erase(id.substr(0, id.find('#')));
      by_id[id] = reason;
    }
  }
  for (const auto& [id, reason] : by_id) {
    const std::string file = id.substr(0, id.find('#'));
    reasons[by_id.contains(file + "#1") ? id : file] = reason;
  }
  return reasons;
}

class Folder : public ::testing::Test {
 protected:
  static std::string manifests(const fs::path& out) {
    std::string bytes;
    for (const char* stage : kStageNames) bytes += io::read_text_file(manifest_path(out, stage));
    return bytes;
  }
  /// The program, killed at a point; whether it was.
  bool killed_at(const std::string& point) const {
    const std::string command =
        fmt::format("UNIGRPO_FAULT={}=kill {} data ingest --in {} --out {} --workers 4 > {} 2>&1", point,
                    UNIGRPO_BINARY, set_.in().string(), set_.out("killed").string(), (set_.out() / "printed").string());
    return std::system(command.c_str()) != 0;
  }
  Set set_;
};

TEST_F(Folder, EveryFileGetsItsReasonAndKillsChangeNothing) {
  Reasons expected;
  add_good(set_, expected);
  add_unreadable(set_, expected);
  add_others(set_, expected);
  add_unfit(set_, expected);
  size_t num_files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(set_.in())) {
    num_files += entry.is_regular_file() && entry.path().extension() != ".json" && entry.path().extension() != ".txt";
  }
  EXPECT_EQ(num_files, 60U);
  set_.run(set_.options({}));
  const Reasons found = outcomes(set_.out());
  EXPECT_EQ(found.size(), expected.size());
  for (const auto& [id, reason] : found) EXPECT_EQ(reason, expected.contains(id) ? expected[id] : "not expected") << id;
  for (const char* point : {"ingest.row:20", "ingest.row:31", "ingest.row:60", "ingest.manifest:2", "save.rename:3",
                            "ingest.collected:2"}) {
    EXPECT_TRUE(killed_at(point)) << point;
  }
  set_.run(set_.options({}, "killed", 4));
  EXPECT_TRUE(manifests(set_.out("killed")) == manifests(set_.out()));
  EXPECT_FALSE(fs::exists(set_.out("killed") / "probe.part.jsonl"));
}

}  // namespace
}  // namespace unigrpo::ingest

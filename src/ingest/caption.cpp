#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "ingest/reading.h"
#include "ingest/stage.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "media/detect/hearing.h"
#include "media/detect/motion.h"

namespace unigrpo::ingest {
namespace {

namespace detect = media::detect;
using nlohmann::json;

/// What a caption may speak of: each from a sidecar, from a detector, or absent.
constexpr std::array kFields = {"subject",  "action", "camera",  "style",        "speech", "speaker",
                                "language", "accent", "emotion", "sound_events", "music"};
constexpr std::array kPitches = {"C",       "C sharp", "D",       "D sharp", "E",       "F",
                                 "F sharp", "G",       "G sharp", "A",       "A sharp", "B"};
constexpr size_t kMaxText = 4000;

/// What people wrote of a file: captions, and fields.
struct Written {
  std::string video, audio, source;
  std::map<std::string, std::string> fields;
};

std::string one_line(std::string text) {
  for (char& c : text) c = static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  const size_t first = text.find_first_not_of(' '), last = text.find_last_not_of(' ');
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

/// A member that is a text, or a list of texts; empty: there is none.
std::string text_of(const json& object, const char* key, const std::string& where) {
  if (!object.contains(key)) return "";
  const json& value = object[key];
  std::vector<std::string> parts;
  for (const json& part : value.is_array() ? value : json::array({value})) {
    if (!part.is_string()) throw BadInput("{}: {} is neither a text nor a list of texts", where, key);
    parts.push_back(one_line(part));
  }
  const std::string text = join(parts, ", ");
  if (text.size() > kMaxText)
    throw BadInput("{}: {} has {} bytes, at most {} are read", where, key, text.size(), kMaxText);
  return text;
}

Written read_written(const Options& options, const json& row) {
  Written written;
  const json& tags = row.at("probe").at("tags");
  for (const char* tag : {"description", "title", "comment"}) {
    if (written.video.empty() && tags.contains(tag)) {
      written.video = one_line(tags[tag]);
      written.source = fmt::format("tag {}", tag);
    }
  }
  for (const json& sidecar : row.at("sidecars")) {
    const std::string name = sidecar.at("path");
    const auto path = options.in / name;
    if (name.ends_with(".txt")) {
      const std::string text = one_line(io::read_text_file(path, kMaxText));
      if (!is_valid_utf8(text)) throw BadInput("{}: is no UTF-8", name);
      if (!text.empty()) std::tie(written.video, written.source) = std::pair(text, name);
      continue;
    }
    const json object = io::read_json_file(path);
    if (!object.is_object()) throw BadInput("{}: is no JSON object", name);
    for (const char* key : {"caption", "video"}) {
      const std::string text = text_of(object, key, name);
      if (!text.empty()) std::tie(written.video, written.source) = std::pair(text, name);
    }
    written.audio = text_of(object, "audio", name);
    for (const char* field : kFields) {
      const std::string text = text_of(object, field, name);
      if (!text.empty()) written.fields[field] = text;
    }
  }
  return written;
}

std::string color_name(double r, double g, double b) {
  const double high = std::max({r, g, b}), range = high - std::min({r, g, b});
  double hue = high == r ? std::fmod((g - b) / range + 6, 6) : high == g ? (b - r) / range + 2 : (r - g) / range + 4;
  hue *= 60;
  if (hue < 20 || hue >= 330) return "red";
  if (hue < 42) return "orange";
  if (hue < 70) return "yellow";
  if (hue < 165) return "green";
  return hue < 255 ? "blue" : "purple";
}

/// The mean colour of what a track follows, at its middle.
std::string color_of(const detect::Track& track, const media::Frames& frames) {
  const int64_t k = frames.count / 2;
  const detect::Track::Place& place = track.places[static_cast<size_t>(k)];
  const int x = std::clamp(static_cast<int>(place.x), 0, frames.width - 1);
  const int y = std::clamp(static_cast<int>(place.y), 0, frames.height - 1);
  const uint8_t* p = frames.frame(k) + 3 * (static_cast<size_t>(y) * frames.width + x);
  return std::max({p[0], p[1], p[2]}) == std::min({p[0], p[1], p[2]}) ? "" : color_name(p[0], p[1], p[2]);
}

/// Where a thing goes, in words; pixels of the clip's longer side.
std::string movement_of(const detect::Track& track, const media::Clip& clip) {
  if (detect::find_contact(track, clip.fps).reason.empty()) return "falls and bounces";
  const double dx = track.places.back().x - track.places.front().x, dy = track.places.back().y - track.places.front().y;
  if (std::hypot(dx, dy) < 0.1 * std::max(clip.frames.width, clip.frames.height)) return "stays in its place";
  if (std::abs(dx) > std::abs(dy)) return dx > 0 ? "moves to the right" : "moves to the left";
  return dy > 0 ? "moves down" : "moves up";
}

/// One or two coloured things that are seen all along; more is no scene that this detector knows.
void see_things(const media::Clip& clip, std::map<std::string, std::string>& fields) {
  std::vector<std::string> subjects, actions;
  for (const detect::Track& track : detect::track_objects(clip.frames)) {
    if (std::ranges::any_of(track.places, [](const auto& place) { return place.weight == 0; })) return;
    const std::string color = color_of(track, clip.frames);
    if (color.empty()) return;
    subjects.push_back(fmt::format("{} {} thing", color == "orange" ? "an" : "a", color));
    actions.push_back(movement_of(track, clip));
  }
  if (subjects.empty() || subjects.size() > 2) return;
  fields["subject"] = join(subjects, " and ");
  fields["action"] = join(actions, " and ");
}

void see_camera(const media::Clip& clip, std::map<std::string, std::string>& fields) {
  constexpr double kSure = 0.4;               // of what differs between frames, left by the camera's motion
  constexpr double kPan = 0.1, kZoom = 0.08;  // sides and e-folds a second
  const detect::CameraMotion camera = detect::find_camera(clip.frames, clip.fps);
  if (camera.residual > kSure) return;
  const double side = std::max(clip.frames.width, clip.frames.height);
  const double dx = camera.dx / side, dy = camera.dy / side;
  std::string text = "is still";
  if (std::hypot(dx, dy) > kPan) {
    if (std::abs(dx) > std::abs(dy))
      text = dx > 0 ? "pans right" : "pans left";
    else
      text = dy > 0 ? "pans down" : "pans up";
  } else if (std::abs(camera.zoom) > kZoom) {
    text = camera.zoom > 0 ? "zooms in" : "zooms out";
  }
  fields["camera"] = "the camera " + text;
}

std::string hear(const media::Sound& sound) {
  constexpr double kSilent = 0.00316, kLoud = 0.18, kSoft = 0.02;  // root mean square: -50, -15, -34 dBFS
  const double level = detect::loudness(sound);
  if (level < kSilent) return "silence";
  const std::vector<double> onsets = detect::find_onsets(sound);
  const std::string strength = level > kLoud ? "loud " : level < kSoft ? "soft " : "";
  const std::optional<double> pitch = detect::find_pitch(sound, onsets.empty() ? 0 : onsets.front());
  std::string of;
  if (pitch)
    of = fmt::format(" of {}",
                     kPitches[static_cast<size_t>(((std::lround(detect::semitones_of(*pitch)) % 12) + 12) % 12)]);
  const char* what = pitch ? "tone" : "sound";
  // What begins with the clip was there before it.
  if (onsets.empty() || (onsets.size() == 1 && onsets.front() < 0.05))
    return fmt::format("a {}steady {}{}", strength, what, of);
  if (onsets.size() == 1) return fmt::format("one {}{}{}", strength, what, of);
  return fmt::format("{} {}sounds{}", onsets.size(), strength, pitch ? ", the first a tone" + of : "");
}

std::string sentence(std::string text) {
  if (!text.empty() && text.back() != '.' && text.back() != '!' && text.back() != '?') text += '.';
  return text;
}

/// Captions for pictures and sound apart, and both in one, with what each part came from.
class Caption final : public Stage {
 public:
  explicit Caption(const Options& options) : options_(options) {}
  const char* name() const override { return "caption"; }

  json measure(const json& row) const override {
    Written written;
    try {
      written = read_written(options_, row);
    } catch (const BadInput& error) {
      return dropped("bad sidecar", detail_of(error.what()));
    }
    constexpr int kSide = 64, kRate = 8000;
    const media::Clip clip = read_repaired(options_, row, {.sample_rate = kRate, .max_side = kSide});
    std::map<std::string, std::string> seen;
    see_things(clip, seen);
    see_camera(clip, seen);
    if (row.contains("filter") && row["filter"].value("slow_motion", false)) seen["style"] = "slow motion";
    const bool heard = has_stream(row, "audio");
    if (heard) seen["sound_events"] = hear(clip.sound);
    json fields = json::object();
    for (const auto& [field, text] : seen) fields[field] = {{"value", text}, {"source", "detector"}};
    for (const auto& [field, text] : written.fields) fields[field] = {{"value", text}, {"source", "sidecar"}};
    return caption_of(written, fields, heard);
  }

 private:
  static json caption_of(const Written& written, const json& fields, bool heard) {
    const auto field = [&](const char* name) {
      return fields.contains(name) ? fields[name]["value"].get<std::string>() : "";
    };
    const auto joined = [&](std::initializer_list<const char*> names, const char* between) {
      std::vector<std::string> parts;
      for (const char* name : names) {
        if (!field(name).empty()) parts.push_back(field(name));
      }
      return join(parts, between);
    };
    std::string video = written.video, audio = heard ? written.audio : "";
    std::string video_source = written.source, audio_source = audio.empty() ? "" : "sidecar";
    if (video.empty()) {
      const std::string thing = joined({"subject", "action"}, " ");
      const std::string rest = joined({"camera", "style"}, ", ");
      video = thing + (thing.empty() || rest.empty() ? "" : ", ") + rest;
      video_source = "template";
    }
    if (audio.empty() && heard) {
      const std::string speech = field("speech"), voice = joined({"emotion", "accent", "language"}, ", ");
      audio = joined({"sound_events", "music"}, ", ");
      if (!speech.empty()) {
        const std::string speaker = field("speaker").empty() ? "a voice" : field("speaker");
        audio += fmt::format("{}{}{} says \"{}\"", audio.empty() ? "" : ", ", speaker,
                             voice.empty() ? "" : " (" + voice + ")", speech);
      }
      audio_source = "template";
    }
    const std::string sound = audio.empty() ? "" : (video.empty() ? "Sound: " : " Sound: ") + sentence(audio);
    return {{"video", video},
            {"audio", audio},
            {"text", sentence(video) + sound},
            {"sources", {{"video", video.empty() ? "" : video_source}, {"audio", audio_source}}},
            {"fields", fields}};
  }

  /// Without the folder that the files lie in, which is no part of a manifest.
  std::string detail_of(std::string text) const {
    const std::string folder = (options_.in / "").string();
    if (text.starts_with(folder)) text.erase(0, folder.size());
    return text;
  }

  const Options& options_;
};

}  // namespace

std::unique_ptr<Stage> make_caption(const Options& options) { return std::make_unique<Caption>(options); }

}  // namespace unigrpo::ingest

#include "reward/builtin/av_terms.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "data/worlds/shapes_world.h"
#include "io/json.h"
#include "media/detect/hearing.h"
#include "media/detect/motion.h"
#include "reward/builtin/color_detector.h"
#include "reward/builtin/geneval.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

namespace detect = media::detect;
using nlohmann::json;

constexpr double kSyncScale_s = 0.06;
constexpr int kColored = 20;  // more between a pixel's highest and lowest channel is no grey

Score none(std::string reason) { return {.value = std::nullopt, .reason = std::move(reason), .parts = {}}; }
Score not_asked(std::string reason) {
  Score score = none(std::move(reason));
  score.asked = false;
  return score;
}
Score zero(std::string reason) { return {.value = 0.0, .reason = std::move(reason), .parts = {}}; }
Score scored(double value, std::map<std::string, std::string> notes = {}) {
  return {.value = std::clamp(value, 0.0, 1.0), .reason = "", .parts = {}, .missing = {}, .notes = std::move(notes)};
}
double closeness(double offset_s) { return std::exp(-std::pow(offset_s / kSyncScale_s, 2)); }
/// 1 up to `good`, 0 from `bad` on.
double ramp(double value, double good, double bad) { return std::clamp((bad - value) / (bad - good), 0.0, 1.0); }

/// What a row asks for.
struct Asked {
  std::string scene;
  bool silent = false;
  json av;

  bool has_contacts() const { return scene == "bounce" || scene == "two_events"; }
  int pitch() const { return av["events"].empty() || silent ? -1 : av["events"][0].value("pitch", -1); }
};

Asked read_asked(const std::string& metadata_json) {
  const json row = io::parse_json(metadata_json, "metadata");
  const auto is_av = [](const json& holder) {
    return holder.is_object() && holder.contains("av") && holder["av"].is_object();
  };
  if (!row.is_object() || !row.contains("metadata") || !is_av(row["metadata"]))
    throw BadInput("'metadata.av' is missing");
  Asked asked = {.scene = "", .silent = false, .av = row["metadata"]["av"]};
  try {
    asked.scene = asked.av.at("scene").get<std::string>();
    asked.silent = asked.av.value("silent", false);
    if (!asked.av.at("events").is_array()) throw BadInput("'metadata.av.events' is no list");
    for (const json& event : asked.av["events"]) {
      const int pitch = event.value("pitch", 0);
      if (pitch < 0 || pitch > 11) throw BadInput("'metadata.av.events': pitch {}, expected 0..11", pitch);
    }
  } catch (const json::exception&) {
    throw BadInput("'metadata.av' must hold 'scene', a text, and 'events', a list");
  }
  return asked;
}

struct SeenContact {
  double time_s = 0;
  detect::Track track;
};

std::vector<SeenContact> find_contacts(const media::Clip& clip) {
  std::vector<SeenContact> contacts;
  for (detect::Track& track : detect::track_objects(clip.frames)) {
    const detect::Contact contact = detect::find_contact(track, clip.fps);
    if (contact.reason.empty()) contacts.push_back({contact.time_s, std::move(track)});
  }
  std::ranges::sort(contacts, {}, &SeenContact::time_s);
  return contacts;
}

Score score_sync(const media::Clip& clip, const Asked& asked) {
  if (!asked.has_contacts() || asked.silent) return not_asked("the prompt asks for no sound of a contact");
  const auto contacts = find_contacts(clip);
  const auto onsets = detect::find_onsets(clip.sound);
  if (contacts.empty()) return zero("no contact seen");
  if (onsets.empty()) return zero("no onset heard");
  double sum = 0;
  std::string offsets;
  for (const SeenContact& contact : contacts) {
    double nearest = 1e9;
    for (const double onset : onsets) {
      if (std::abs(onset - contact.time_s) < std::abs(nearest)) nearest = onset - contact.time_s;
    }
    sum += closeness(nearest);
    offsets += fmt::format("{}{:.1f}", offsets.empty() ? "" : " ", 1e3 * nearest);
  }
  const auto seen = static_cast<double>(contacts.size()), heard = static_cast<double>(onsets.size());
  return scored(sum / seen * std::min(seen, heard) / std::max(seen, heard),
                {{"offset_ms", offsets}, {"contacts", fmt::format("{}", seen)}, {"onsets", fmt::format("{}", heard)}});
}

Score score_lip(const media::Clip& clip, const Asked& asked) {
  if (asked.scene != "mouth" || asked.silent) return not_asked("the prompt asks for no speech");
  const auto heights = detect::mouth_heights(clip.frames);
  const auto envelope = detect::envelope(clip.sound);
  const size_t wanted = asked.av["events"].size();
  const size_t seen = detect::find_openings(heights, clip.fps).size(), heard = detect::find_bursts(envelope).size();
  if (seen != wanted || heard != wanted) {
    return zero(fmt::format("{} syllables seen and {} heard, asked for {}", seen, heard, wanted));
  }
  // The mouth's height on the envelope's hops, between frames along straight lines; both without their means.
  std::vector<double> mouth(envelope.size()), voice = envelope;
  for (size_t k = 0; k < mouth.size(); ++k) {
    const double place = (static_cast<double>(k) + 0.5) * detect::kEnvelopeHop_s * clip.fps.value();
    const auto before = std::min(static_cast<size_t>(place), heights.size() - 1);
    const auto after = std::min(before + 1, heights.size() - 1);
    mouth[k] = heights[before] + (place - static_cast<double>(before)) * (heights[after] - heights[before]);
  }
  for (std::vector<double>* series : {&mouth, &voice}) {
    double mean = 0;
    for (const double value : *series) mean += value / static_cast<double>(series->size());
    for (double& value : *series) value -= mean;
  }
  const auto furthest = static_cast<std::ptrdiff_t>(0.25 / detect::kEnvelopeHop_s);
  const auto size = static_cast<std::ptrdiff_t>(mouth.size());
  double best = 0, lag_s = 0;
  for (std::ptrdiff_t lag = -furthest; lag <= furthest; ++lag) {
    double product = 0, left = 1e-12, right = 1e-12;
    for (std::ptrdiff_t k = std::max<std::ptrdiff_t>(0, -lag); k < std::min(size, size - lag); ++k) {
      product += mouth[k] * voice[k + lag];
      left += mouth[k] * mouth[k];
      right += voice[k + lag] * voice[k + lag];
    }
    if (const double similar = product / std::sqrt(left * right); similar > best) {
      best = similar;
      lag_s = static_cast<double>(lag) * detect::kEnvelopeHop_s;
    }
  }
  return scored(best * closeness(lag_s),
                {{"correlation", fmt::format("{:.3f}", best)}, {"lag_ms", fmt::format("{:.0f}", 1e3 * lag_s)}});
}

Score score_pitch(const media::Clip& clip, const Asked& asked) {
  const int wanted = asked.pitch();
  if (wanted < 0) return not_asked("the prompt asks for no pitch");
  double from_s = 0.3;  // of a steady tone
  if (asked.scene == "bounce") {
    const auto onsets = detect::find_onsets(clip.sound);
    if (onsets.empty()) return zero("no onset heard");
    from_s = onsets.front();
  }
  const auto found = detect::find_pitch(clip.sound, from_s);
  if (!found) return zero("no pitch heard");
  const double off = detect::class_distance(detect::semitones_of(*found), wanted);
  return scored(off < 0.5 ? 1 : 1 - off / 3,
                {{"hertz", fmt::format("{:.1f}", *found)}, {"semitones_off", fmt::format("{:.2f}", off)}});
}

Score score_camera(const media::Clip& clip, const Asked& asked) {
  if (!asked.av.contains("camera")) return not_asked("the prompt asks for no camera move");
  const json& camera = asked.av["camera"];
  constexpr double kZoom = 50;  // an e-fold a second weighs as so many pixels
  constexpr double kStill = 8;  // pixels a second: as far from still as a slow move
  const double x = camera.value("dx", 0.0), y = camera.value("dy", 0.0), z = kZoom * camera.value("zoom", 0.0);
  const detect::CameraMotion found = detect::find_camera(clip.frames, clip.fps);
  std::map<std::string, std::string> notes = {{"dx", fmt::format("{:.2f}", found.dx)},
                                              {"dy", fmt::format("{:.2f}", found.dy)},
                                              {"zoom", fmt::format("{:.3f}", found.zoom)}};
  const double fz = kZoom * found.zoom, size = std::hypot(x, y, z);
  if (size == 0) return scored(1 - std::hypot(found.dx, found.dy, fz) / kStill, std::move(notes));
  if (x * found.dx + y * found.dy + z * fz <= 0) return scored(0, std::move(notes));
  return scored(1 - std::hypot(found.dx - x, found.dy - y, fz - z) / size, std::move(notes));
}

/// How far a track's colour, in the frame of its contact's neighbourhood, is from a named one.
double color_distance(const media::Clip& clip, const detect::Track& track, const std::string& name) {
  const auto found = std::ranges::find(data::shapes::kColorNames, name);
  if (found == data::shapes::kColorNames.end()) return 0;
  const auto& rgb = data::shapes::kColorRgb[static_cast<size_t>(found - data::shapes::kColorNames.begin())];
  const auto middle = static_cast<size_t>(clip.frames.count / 2);
  const int x = std::clamp(static_cast<int>(track.places[middle].x), 0, clip.frames.width - 1);
  const int y = std::clamp(static_cast<int>(track.places[middle].y), 0, clip.frames.height - 1);
  const uint8_t* pixel = clip.frames.frame(static_cast<int64_t>(middle)) + 3 * (y * clip.frames.width + x);
  return std::hypot(pixel[0] - rgb[0], pixel[1] - rgb[1], pixel[2] - rgb[2]);
}

Score score_order(const media::Clip& clip, const Asked& asked) {
  if (!asked.av.contains("order")) return not_asked("the prompt asks for no order");
  const json &order = asked.av["order"], &objects = asked.av["objects"];
  const auto contacts = find_contacts(clip);
  bool seen = contacts.size() == 2 && objects.size() == 2;
  if (seen) {
    const std::string first = objects[0].value("color", ""), second = objects[1].value("color", "");
    const double straight =
        color_distance(clip, contacts[0].track, first) + color_distance(clip, contacts[1].track, second);
    const double crossed =
        color_distance(clip, contacts[0].track, second) + color_distance(clip, contacts[1].track, first);
    seen = straight <= crossed;
  }
  const auto onsets = detect::find_onsets(clip.sound);
  bool heard = onsets.size() == 2 && order.size() == 2;
  if (heard) {
    const double first = detect::spectral_center(clip.sound, onsets[0]),
                 second = detect::spectral_center(clip.sound, onsets[1]);
    constexpr double kBell = 600;  // Hz: bells ring above, drums below
    heard = order[0] == "bell" ? first > kBell && second < kBell : first < kBell && second > kBell;
  }
  return scored(0.5 * (seen ? 1 : 0) + 0.5 * (heard ? 1 : 0),
                {{"seen", seen ? "right" : "wrong"}, {"heard", heard ? "right" : "wrong"}});
}

Score score_side(const media::Clip& clip, const Asked& asked) {
  if (!asked.av.contains("side")) return not_asked("the prompt asks for no side");
  const double sign = asked.av["side"] == "right" ? 1 : -1;
  const auto tracks = detect::track_objects(clip.frames);
  if (tracks.empty()) return zero("no object seen");
  const auto& place = tracks[0].places[static_cast<size_t>(clip.frames.count / 2)];
  if (tracks.size() > 1 || sign * (place.x - clip.frames.width / 2.0) <= 0)
    return zero("the object is not on the asked side");
  if (asked.silent) return scored(1);
  if (detect::loudness(clip.sound) < 1e-3) return zero("no sound heard");
  const double level = sign * detect::right_level(clip.sound);
  return scored(0.5 + level / 6, {{"level_db", fmt::format("{:.1f}", level)}});
}

/// A frame as the image world's detector reads images: twice as large, and plain ground for all that has no colour.
Image plain_image(const media::Frames& frames, int64_t index) {
  constexpr int kScale = 2;
  constexpr uint8_t kGround = 210;
  const uint8_t* source = frames.frame(index);
  std::vector<uint8_t> plain(source, source + frames.frame_bytes());
  for (size_t i = 0; i < plain.size(); i += 3) {
    const auto [low, high] = std::minmax({plain[i], plain[i + 1], plain[i + 2]});
    if (high - low <= kColored) std::fill_n(plain.begin() + static_cast<std::ptrdiff_t>(i), 3, kGround);
  }
  Image image{.width = kScale * frames.width, .height = kScale * frames.height, .pixels = {}};
  image.pixels.resize(kScale * kScale * plain.size());
  // Along straight lines between the middles of pixels.
  const auto place = [](int k, int size) {
    const double at = std::clamp((k + 0.5) / kScale - 0.5, 0.0, size - 1.0);
    const int first = std::min(static_cast<int>(at), std::max(size - 2, 0));
    return std::tuple(first, std::min(first + 1, size - 1), at - first);
  };
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      const auto [x0, x1, fx] = place(x, frames.width);
      const auto [y0, y1, fy] = place(y, frames.height);
      for (int c = 0; c < 3; ++c) {
        const auto at = [&](int row, int column) {
          return plain[static_cast<size_t>(3 * (row * frames.width + column) + c)];
        };
        const double value =
            (1 - fy) * ((1 - fx) * at(y0, x0) + fx * at(y0, x1)) + fy * ((1 - fx) * at(y1, x0) + fx * at(y1, x1));
        image.pixels[static_cast<size_t>(3 * (y * image.width + x) + c)] = static_cast<uint8_t>(std::lround(value));
      }
    }
  }
  return image;
}

Score score_shape(const media::Clip& clip, const Asked& asked) {
  if (!asked.av.contains("objects") || asked.av["objects"].empty()) return not_asked("the prompt asks for no object");
  GenevalRow row;
  for (const json& object : asked.av["objects"]) {
    const std::string name = object.value("class", ""), color = object.value("color", "");
    const auto same = std::ranges::find_if(
        row.include, [&](const auto& entry) { return entry.class_name == name && entry.color == color; });
    if (same != row.include.end()) {
      ++same->count;
    } else {
      row.include.push_back({.class_name = name, .color = color, .position = std::nullopt});
    }
  }
  static const std::unique_ptr<Detector> detector = make_color_detector();  // has no state
  double sum = 0;
  std::string wrong;
  for (const int64_t quarter : {1, 2, 3}) {
    const Image image = plain_image(clip.frames, clip.frames.count * quarter / 4);
    const GenevalScore found = score_geneval(row, detector->detect(image), image.width, image.height);
    sum += found.soft / 3;
    if (quarter == 2) wrong = found.reason;
  }
  return scored(sum, wrong.empty() ? std::map<std::string, std::string>()
                                   : std::map<std::string, std::string>{{"middle", wrong}});
}

/// Mean size of second differences in time, in steps of 255, of pixels that no coloured object touches.
double flicker(const media::Frames& frames) {
  double sum = 0, count = 0;
  const auto colored = [&](int64_t k, size_t i) {
    const uint8_t* pixel = frames.frame(k) + i;
    return std::max({pixel[0], pixel[1], pixel[2]}) - std::min({pixel[0], pixel[1], pixel[2]}) > kColored;
  };
  for (int64_t k = 1; k + 1 < frames.count; ++k) {
    for (size_t i = 0; i < frames.frame_bytes(); i += 3) {
      if (colored(k - 1, i) || colored(k, i) || colored(k + 1, i)) continue;
      for (size_t c = i; c < i + 3; ++c)
        sum += std::abs(frames.frame(k - 1)[c] - 2 * frames.frame(k)[c] + frames.frame(k + 1)[c]);
      count += 3;
    }
  }
  return count == 0 ? 0 : sum / count;
}

/// The sound before the first event, or all of it where silence is asked for, in dBFS.
double idle_level(const media::Clip& clip, const Asked& asked) {
  media::Sound idle = clip.sound;
  if (!asked.silent) {
    const auto onsets = detect::find_onsets(clip.sound);
    if (!asked.has_contacts() || onsets.empty()) return -100;
    const auto keep = static_cast<int64_t>((onsets.front() - 0.01) * clip.sound.rate);
    idle.samples.clear();
    for (int c = 0; c < clip.sound.channels; ++c) {
      idle.samples.insert(idle.samples.end(), clip.sound.channel(c),
                          clip.sound.channel(c) + std::clamp<int64_t>(keep, 0, clip.sound.length()));
    }
  }
  return 20 * std::log10(std::max(detect::loudness(idle), 1e-5));
}

Score score_quality(const media::Clip& clip, const Asked& asked) {
  const double flickers = asked.av.contains("camera") ? 0 : flicker(clip.frames);
  double clipped = 0;
  for (const float sample : clip.sound.samples) clipped += std::abs(sample) >= 0.999F ? 1 : 0;
  clipped /= std::max<double>(static_cast<double>(clip.sound.samples.size()), 1);
  const double idle_db = idle_level(clip, asked);
  return scored(ramp(flickers, 2, 12) * ramp(clipped, 1e-3, 2e-2) * ramp(idle_db, -50, -25),
                {{"flicker", fmt::format("{:.2f}", flickers)},
                 {"clipped", fmt::format("{:.4f}", clipped)},
                 {"idle_dbfs", fmt::format("{:.1f}", idle_db)}});
}

}  // namespace

Score av_score(AvTerm term, const media::Clip& clip, const std::string& metadata_json) {
  const Asked asked = read_asked(metadata_json);
  if (clip.frames.count < 3 || clip.fps.num < 1) return none("the clip has no frames");
  switch (term) {
    case AvTerm::av_sync:
      return score_sync(clip, asked);
    case AvTerm::av_lip:
      return score_lip(clip, asked);
    case AvTerm::av_pitch:
      return score_pitch(clip, asked);
    case AvTerm::av_camera:
      return score_camera(clip, asked);
    case AvTerm::av_order:
      return score_order(clip, asked);
    case AvTerm::av_side:
      return score_side(clip, asked);
    case AvTerm::av_shape:
      return score_shape(clip, asked);
    case AvTerm::av_quality:
      return score_quality(clip, asked);
  }
  return none("");
}

namespace {

class AvReward : public Reward {
 public:
  explicit AvReward(AvTerm term) : term_(term) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    return score_each(samples, [this](const data::Sample& sample) {
      const media::Clip* clip = sample.last_clip();
      if (clip == nullptr || clip->frames.count == 0) return none("no clip");
      return av_score(term_, *clip, sample.metadata_json);
    });
  }
  std::string missing_metadata(const std::string& metadata_json) const override {
    return complaint_of([&] { read_asked(metadata_json); });
  }

 private:
  AvTerm term_;
};

}  // namespace

std::unique_ptr<Reward> make_av_reward(AvTerm term) { return std::make_unique<AvReward>(term); }

}  // namespace unigrpo::reward

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/rng.h"
#include "ingest/reading.h"
#include "ingest/stage.h"
#include "media/detect/rhythm.h"

namespace unigrpo::ingest {
namespace {

namespace detect = media::detect;
using nlohmann::json;

constexpr double kTolerance_s = 0.125;
constexpr double kRepairFrom_s = 0.04, kRepairTo_s = 0.5;
constexpr double kClear = 1.2;  // the peak against the second one
constexpr double kLeastPeak = 0.2;
constexpr int kShuffles = 200;

/// A curve as hexadecimal bytes, 255 for its largest value: what the comparison with others needs of it.
std::string packed(const std::vector<double>& curve) {
  const double largest = curve.empty() ? 0 : *std::ranges::max_element(curve);
  std::string text;
  for (const double value : curve) {
    text += fmt::format("{:02x}", largest > 0 ? static_cast<int>(std::lround(value / largest * 255)) : 0);
  }
  return text;
}

std::vector<double> unpacked(const json& packed) {
  const std::string& text = packed.get_ref<const std::string&>();
  std::vector<double> curve;
  for (size_t at = 0; at + 2 <= text.size(); at += 2) curve.push_back(std::stoi(text.substr(at, 2), nullptr, 16));
  return curve;
}

bool is_judged(const json& measured) { return measured.value("judged", false); }

/// Peaks that pictures have with other clips' sound, and what 95% of them are below.
double shuffled_peak(const std::vector<json>& measured, const std::vector<size_t>& judged) {
  std::vector<double> peaks;
  for (int i = 0; i < kShuffles; ++i) {
    RandomStream stream({.sample = static_cast<uint64_t>(i), .purpose = Purpose::world_plan});
    const size_t one = stream.below(judged.size());
    const size_t other = (one + 1 + stream.below(judged.size() - 1)) % judged.size();
    const json &eyes = measured[judged[one]], &ears = measured[judged[other]];
    const detect::SeenRhythm seen = {.pulsed = eyes.at("pulsed"), .eventful = true, .curve = unpacked(eyes.at("seen"))};
    const detect::HeardRhythm heard = {
        .eventful = true, .strikes = unpacked(ears.at("strikes")), .swells = unpacked(ears.at("swells"))};
    peaks.push_back(detect::compare_rhythms(seen, heard).peak);
  }
  const auto place = peaks.begin() + static_cast<std::ptrdiff_t>(0.95 * kShuffles);
  std::ranges::nth_element(peaks, place);
  return *place;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

/// What is usual in the set.
struct Usual {
  double bias_s = 0;  // of sound, after what is seen
  double least_peak = kLeastPeak;
  bool shuffles_tell = false;
};

/// Pairings with other clips' sound tell right from wrong only where most of the set stands above them: where clips
/// have one event each, any two of them fit at some offset, and the offset alone is what tells.
Usual usual_of(const std::vector<json>& measured) {
  std::vector<size_t> judged;
  std::vector<double> offsets, peaks;
  for (size_t i = 0; i < measured.size(); ++i) {
    if (!is_judged(measured[i])) continue;
    judged.push_back(i);
    offsets.push_back(measured[i].at("offset_s"));
    peaks.push_back(measured[i].at("peak"));
  }
  Usual usual;
  if (judged.size() < 2) return usual;
  constexpr size_t kEnough = 20;  // clips, for a median to be of the set
  if (judged.size() >= kEnough) usual.bias_s = std::clamp(median(offsets), -kTolerance_s, kTolerance_s);
  const double shuffled = shuffled_peak(measured, judged);
  usual.shuffles_tell = median(peaks) > shuffled;
  if (usual.shuffles_tell) usual.least_peak = std::max(shuffled, kLeastPeak);
  return usual;
}

/// Whether sound belongs to its pictures, and by how much it is off.
class Sync final : public Stage {
 public:
  explicit Sync(const Options& options) : options_(options) {}
  const char* name() const override { return "sync"; }

  json measure(const json& row) const override {
    if (!has_stream(row, "audio")) return {{"judged", false}, {"why", "no sound"}};
    constexpr int kSide = 48, kRate = 8000;
    const media::Clip clip = read_repaired(options_, row, {.sample_rate = kRate, .max_side = kSide});
    const detect::SeenRhythm seen = detect::see_rhythm(clip.frames, clip.fps);
    const detect::HeardRhythm heard = detect::hear_rhythm(clip.sound);
    if (!seen.eventful && !heard.eventful) return {{"judged", false}, {"why", "nothing happens in it"}};
    if (!seen.eventful) return dropped("no sync", "a sound begins, but no event is seen");
    if (!heard.eventful) return dropped("no sync", "an event is seen, but no sound begins");
    const detect::RhythmLag lag = detect::compare_rhythms(seen, heard);
    return {{"judged", true},
            {"pulsed", seen.pulsed},
            {"seen", packed(seen.curve)},
            {"strikes", packed(heard.strikes)},
            {"swells", packed(heard.swells)},
            {"offset_s", rounded(lag.heard_after_s)},
            {"peak", rounded(lag.peak)},
            {"second", rounded(lag.second)}};
  }

  std::vector<json> collect(std::vector<json> rows, std::vector<json> measured) const override {
    const Usual usual = usual_of(measured);
    for (size_t i = 0; i < rows.size(); ++i) {
      for (const char* curve : {"seen", "strikes", "swells"}) measured[i].erase(curve);
      if (is_judged(measured[i])) judge(usual, rows[i], measured[i]);
      add_measured(rows[i], name(), std::move(measured[i]));
    }
    return rows;
  }

 private:
  static void judge(const Usual& usual, json& row, json& measured) {
    const double off_s = measured["offset_s"].get<double>() - usual.bias_s, peak = measured["peak"];
    const bool clear = peak >= kClear * std::max(measured["second"].get<double>(), 0.0);
    measured["bias_s"] = rounded(usual.bias_s);
    measured["least_peak"] = rounded(usual.least_peak);
    measured["shuffles_tell"] = usual.shuffles_tell;
    if (peak < usual.least_peak) {
      measured.update(dropped("no sync", fmt::format("peak {:.2f}, expected {:.2f}", peak, usual.least_peak)));
    } else if (clear && std::abs(off_s) >= kRepairFrom_s && std::abs(off_s) <= kRepairTo_s) {
      row["repairs"]["shift_s"] = rounded(-off_s);
    } else if (std::abs(off_s) > kTolerance_s) {
      measured.update(dropped(
          "out of sync", fmt::format("sound is {:.0f} ms {}", std::abs(off_s) * 1000, off_s > 0 ? "late" : "early")));
    }
  }

  const Options& options_;
};

}  // namespace

std::unique_ptr<Stage> make_sync(const Options& options) { return std::make_unique<Sync>(options); }

}  // namespace unigrpo::ingest

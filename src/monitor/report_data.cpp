#include "monitor/report_data.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/paths.h"
#include "io/atomic_file.h"
#include "io/base64.h"
#include "io/image_codec.h"
#include "io/json.h"
#include "io/step_folder.h"
#include "media/wav.h"
#include "monitor/metrics_file.h"
#include "monitor/samples_file.h"

namespace unigrpo::monitor {
namespace {

namespace fs = std::filesystem;
using data::SegmentKind;
using nlohmann::json;

// What keeps the file small enough to mail.
constexpr size_t kMaxGrids = 16;
constexpr size_t kMaxSamplesAGrid = 16;
constexpr size_t kMaxPairs = 48;
constexpr size_t kMaxEmbeddedBytes = 200'000;  // larger images, and those in other formats, are made small
constexpr int kSmallSide = 256;                // pixels

constexpr std::string_view kPngSignature = "\x89PNG\r\n\x1a\n";

// `most` indices of 0..size-1, evenly spaced, the first and the last among them.
std::vector<size_t> evenly(size_t size, size_t most) {
  std::vector<size_t> indices;
  if (size <= most) {
    for (size_t i = 0; i < size; ++i) indices.push_back(i);
  } else {
    for (size_t i = 0; i < most; ++i) indices.push_back(i * (size - 1) / (most - 1));
  }
  return indices;
}

// Mean over boxes of factor x factor pixels, the last ones cut.
Image shrink(const Image& image, int factor) {
  Image small{
      .width = (image.width + factor - 1) / factor, .height = (image.height + factor - 1) / factor, .pixels = {}};
  small.pixels.resize(3 * static_cast<size_t>(small.width) * static_cast<size_t>(small.height));
  for (int y = 0; y < small.height; ++y) {
    for (int x = 0; x < small.width; ++x) {
      const int x_end = std::min(image.width, (x + 1) * factor);
      const int y_end = std::min(image.height, (y + 1) * factor);
      const int count = (x_end - x * factor) * (y_end - y * factor);
      for (int channel = 0; channel < 3; ++channel) {
        int64_t sum = 0;
        for (int v = y * factor; v < y_end; ++v) {
          for (int u = x * factor; u < x_end; ++u) sum += image.at(u, v)[channel];
        }
        small.at(x, y)[channel] = static_cast<uint8_t>((sum + count / 2) / count);
      }
    }
  }
  return small;
}

struct EmbeddedImage {
  std::string src;
  int width;
  int height;
};

int big_endian(std::string_view bytes) {
  uint32_t value = 0;
  for (const char c : bytes) value = (value << 8) | static_cast<uint8_t>(c);
  return static_cast<int>(value);
}

EmbeddedImage embed(const fs::path& path) {
  const auto uri = [](const uint8_t* bytes, size_t size) {
    return "data:image/png;base64," + io::base64_encode({bytes, size});
  };
  const std::string file = io::read_text_file(path);
  if (file.size() <= kMaxEmbeddedBytes && file.size() > 24 && file.starts_with(kPngSignature)) {
    // The header chunk comes first: 4 bytes length, "IHDR", width, height.
    const std::string_view view = file;
    return {uri(reinterpret_cast<const uint8_t*>(file.data()), file.size()), big_endian(view.substr(16, 4)),
            big_endian(view.substr(20, 4))};
  }
  Image image = io::read_image(path);
  const int factor = (std::max(image.width, image.height) + kSmallSide - 1) / kSmallSide;
  if (factor > 1) image = shrink(image, factor);
  const std::vector<uint8_t> png = io::encode_png(image);
  return {uri(png.data(), png.size()), image.width, image.height};
}

/// The highest |sample| of each of some stretches of a sound, 0 to 1.
std::vector<double> wave_peaks(const media::Sound& sound) {
  constexpr int64_t kStretches = 120;
  std::vector<double> peaks(kStretches);
  for (int c = 0; c < sound.channels; ++c) {
    for (int64_t i = 0; i < sound.length(); ++i) {
      double& peak = peaks[static_cast<size_t>(i * kStretches / sound.length())];
      peak = std::max<double>(peak, std::round(100 * std::abs(sound.channel(c)[i])) / 100);
    }
  }
  return peaks;
}

/// The contact sheet of a clip; where the file is small enough the clip itself, to be played; the outline of its sound.
json clip_segment(const fs::path& mp4) {
  const auto beside = [&](const char* extension) { return fs::path(mp4).replace_extension(extension); };
  const EmbeddedImage sheet = embed(beside(".png"));
  json segment = {{"src", sheet.src}, {"width", sheet.width}, {"height", sheet.height}};
  const std::string file = io::read_text_file(mp4);
  if (file.size() <= kMaxEmbeddedBytes) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(file.data());
    segment["video"] = "data:video/mp4;base64," + io::base64_encode({bytes, file.size()});
  }
  if (fs::exists(beside(".wav"))) segment["wave"] = wave_peaks(media::read_wav(beside(".wav")));
  return segment;
}

json sample_json(const StoredSample& stored) {
  json segments = json::array();
  for (size_t i = 0; i < stored.images.size(); ++i) {
    const data::SampleSegment& segment = stored.row.sample.segments[i];
    if (segment.kind == SegmentKind::text) {
      segments.push_back({{"text", segment.text}, {"finished", segment.finished}});
    } else if (segment.kind == SegmentKind::av) {
      segments.push_back(clip_segment(stored.images[i]));
    } else {
      const EmbeddedImage image = embed(stored.images[i]);
      segments.push_back({{"src", image.src}, {"width", image.width}, {"height", image.height}});
    }
  }
  const auto or_null = [](const std::optional<double>& value) { return value ? json(*value) : json(nullptr); };
  json sample = {{"prompt", stored.row.sample.prompt}, {"segments", segments}};
  if (stored.row.reward || !stored.row.scores.empty()) sample["reward"] = or_null(stored.row.reward);
  for (const auto& [term, score] : stored.row.scores) sample["scores"][term] = or_null(score);
  for (const auto& [term, reason] : stored.row.reasons) sample["reasons"][term] = reason;
  for (const auto& [term, notes] : stored.row.notes) {
    for (const auto& [name, text] : notes) sample["notes"].push_back(term + ", " + name + ": " + text);
  }
  return sample;
}

// A folder without samples.jsonl is one that a killed run did not finish.
bool complete(const fs::path& folder) { return fs::exists(folder / kSamplesFile); }

void add_grids(const fs::path& folder, json& report) {
  std::vector<std::pair<int64_t, fs::path>> all;
  for (const int64_t step : io::list_steps(folder)) {
    if (const fs::path path = folder / io::step_name(step); complete(path)) all.emplace_back(step, path);
  }
  report["grids"] = json::array();
  report["grids_total"] = all.size();
  for (const size_t index : evenly(all.size(), kMaxGrids)) {
    const auto& [step, path] = all[index];
    const std::vector<StoredSample> samples = list_samples(path);
    json rows = json::array();
    for (const size_t i : evenly(samples.size(), kMaxSamplesAGrid)) rows.push_back(sample_json(samples[i]));
    report["grids"].push_back({{"step", step}, {"total", samples.size()}, {"rows", std::move(rows)}});
  }
}

void add_pairs(const fs::path& folder, json& report) {
  report["pairs"] = {{"total", 0}, {"rows", json::array()}};
  if (!complete(folder / "before") || !complete(folder / "after")) return;
  const std::vector<StoredSample> before = list_samples(folder / "before");
  const std::vector<StoredSample> after = list_samples(folder / "after");
  std::map<std::string, const StoredSample*> after_by_id;
  for (const StoredSample& sample : after) after_by_id[sample.row.sample.id] = &sample;
  std::vector<std::pair<const StoredSample*, const StoredSample*>> pairs;
  for (const StoredSample& sample : before) {
    const auto found = after_by_id.find(sample.row.sample.id);
    if (found != after_by_id.end()) pairs.emplace_back(&sample, found->second);
  }
  report["pairs"]["total"] = pairs.size();
  for (const size_t i : evenly(pairs.size(), kMaxPairs)) {
    report["pairs"]["rows"].push_back(
        {{"before", sample_json(*pairs[i].first)}, {"after", sample_json(*pairs[i].second)}});
  }
}

// The alarms of monitor/drift_monitor.h, in the order of their steps.
json drift_alarms_of(const MetricsTable& metrics) {
  constexpr std::string_view kRaised = "drift_raised/";
  json alarms = json::array();
  for (size_t i = 0; i < metrics.steps.size(); ++i) {
    for (const auto& [name, values] : metrics.columns) {
      if (!name.starts_with(kRaised) || !values[i]) continue;
      alarms.push_back(
          {{"step", metrics.steps[i]}, {"statistic", name.substr(kRaised.size())}, {"rise", *values[i] > 0}});
    }
  }
  return alarms;
}

void check_scores(const json& scores, const std::string& metric, const std::string& where) {
  if (!scores.is_object()) throw BadInput("{}: expected an object, found {}", where, scores.type_name());
  for (const std::string& name : {std::string("strict"), std::string("soft"), metric}) {
    if (!scores.contains(name) || !(scores[name].is_number() || scores[name].is_null())) {
      throw BadInput("{}.{}: expected a number", where, name);
    }
    const std::string error = name + "_error";
    if (scores.contains(error) && !(scores[error].is_number() || scores[error].is_null())) {
      throw BadInput("{}.{}: expected a number", where, error);
    }
  }
}

// What `eval --json` writes.
json read_eval(const fs::path& file) {
  json eval = io::read_json_file(file);
  if (!eval.is_object() || !eval.contains("overall")) throw BadInput("{}: missing key \"overall\"", file.string());
  if (!eval.contains("metric")) eval["metric"] = "strict";  // older files
  if (!eval["metric"].is_string()) throw BadInput("{}: metric: expected a string", file.string());
  const auto metric = eval["metric"].get<std::string>();
  check_scores(eval["overall"], metric, file.string() + ": overall");
  if (eval.contains("overall_by_tag") || metric == "official") {
    check_scores(eval["overall_by_tag"], metric, file.string() + ": overall_by_tag");
  }
  if (!eval.contains("tags")) eval["tags"] = json::object();
  if (!eval["tags"].is_object()) throw BadInput("{}: tags: expected an object", file.string());
  for (const auto& [tag, scores] : eval["tags"].items()) check_scores(scores, metric, file.string() + ": tags." + tag);
  return eval;
}

// What made the run.
json read_run_facts(const fs::path& file) {
  json facts = io::read_json_file(file);
  if (!facts.is_object()) throw BadInput("{}: expected an object, found {}", file.string(), facts.type_name());
  return facts;
}

}  // namespace

json report_data(const fs::path& run_dir) {
  if (!fs::is_directory(run_dir)) throw BadInput("{}: not a run folder{}", run_dir.string(), seen_from(run_dir));
  if (!fs::exists(run_dir / "metrics.jsonl")) {
    throw BadInput("{}: not a run folder: no metrics.jsonl", run_dir.string());
  }
  const MetricsTable metrics = read_metrics(run_dir / "metrics.jsonl");
  json columns = json::object();
  for (const auto& [name, values] : metrics.columns) {
    json& column = columns[name] = json::array();
    for (const auto& value : values) column.push_back(value ? json(*value) : json(nullptr));
  }
  json report = {{"metrics", {{"steps", metrics.steps}, {"columns", std::move(columns)}}},
                 {"drift", drift_alarms_of(metrics)},
                 {"evals", json::object()},
                 {"recipe", ""}};
  report["name"] = fs::weakly_canonical(run_dir).filename().string();
  if (fs::exists(run_dir / "recipe.toml")) report["recipe"] = io::read_text_file(run_dir / "recipe.toml");
  if (const fs::path file = run_dir / "run.json"; fs::exists(file)) report["run"] = read_run_facts(file);
  for (const char* name : {"before", "after", "before_guided", "after_guided"}) {
    const fs::path file = run_dir / ("eval_" + std::string(name) + ".json");
    if (fs::exists(file)) report["evals"][name] = read_eval(file);
  }
  add_grids(run_dir / "samples", report);
  add_pairs(run_dir / "samples", report);
  return report;
}

}  // namespace unigrpo::monitor

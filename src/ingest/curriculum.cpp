#include "ingest/curriculum.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/rng.h"
#include "base/text.h"
#include "ingest/reading.h"
#include "ingest/stage.h"
#include "io/json_section.h"

namespace unigrpo::ingest {
namespace {

using nlohmann::json;

/// 0 at `low` or less, 1 at `high` or more.
double ramp(double value, double low, double high) { return std::clamp((value - low) / (high - low), 0.0, 1.0); }

/// 0..1: the mean of what the stages before have measured, less for what had to be repaired.
double quality_of(const json& row) {
  const json& video = row.at("probe").at("video");
  const double pixels = video.at("width").get<double>() * video.at("height").get<double>();
  const double fps = video.at("fps_real")[0].get<double>() / video.at("fps_real")[1].get<double>();
  const double bits = video.at("bit_rate").get<double>() / std::max(pixels * fps, 1.0);  // a pixel
  std::vector<double> parts = {ramp(std::log2(std::max(pixels, 1.0)), 10, 20), ramp(bits, 0.02, 0.2)};
  if (row.contains("filter")) parts.push_back(ramp(row["filter"].at("motion"), 0.002, 0.04));
  if (row.contains("sync"))
    parts.push_back(row["sync"].value("judged", false) ? ramp(row["sync"].at("peak"), 0.2, 0.8) : 0.5);
  double quality = std::accumulate(parts.begin(), parts.end(), 0.0) / static_cast<double>(parts.size());
  constexpr double kRepaired = 0.8, kSlow = 0.7, kNoted = 0.9;
  if (row.contains("repairs")) quality *= kRepaired;
  if (row.contains("filter") && row["filter"].value("slow_motion", false)) quality *= kSlow;
  if (!row.at("probe").at("notes").empty()) quality *= kNoted;
  return quality;
}

json to_json(const std::vector<CurriculumStage>& stages) {
  json list = json::array();
  for (const CurriculumStage& stage : stages) {
    list.push_back({{"tiers", stage.tiers},
                    {"streams", stage.streams},
                    {"resolution", stage.resolution},
                    {"frames", stage.frames},
                    {"steps", stage.steps}});
  }
  return list;
}

bool takes(const json& stage, const json& row) {
  const json &tiers = stage.at("tiers"), &streams = stage.at("streams");
  if (std::ranges::find(tiers, row.at("curriculum").at("tier")) == tiers.end()) return false;
  return std::ranges::all_of(
      streams, [&](const json& stream) { return has_stream(row, stream.get_ref<const std::string&>().c_str()); });
}

CurriculumStage read_stage(const json& object, const std::string& where) {
  if (!object.is_object()) throw BadInput("{}: expected an object", where);
  const io::JsonSection section(object, where);
  constexpr std::array kKeys = {"tiers", "streams", "resolution", "frames", "steps"};
  for (const std::string& key : section.keys()) {
    if (std::ranges::find(kKeys, key) == kKeys.end()) throw BadInput("{}: unknown key {}", where, in_quotes(key));
  }
  CurriculumStage stage;
  const json tiers = object.value("tiers", json()), streams = object.value("streams", json());
  for (const json& tier : tiers.is_array() ? tiers : json::array()) {
    if (!tier.is_number_integer() || tier < 1 || tier > kNumTiers) {
      throw BadInput("{}: tiers: {} is no tier, expected 1 to {}", where, tier.dump(), kNumTiers);
    }
    stage.tiers.push_back(tier);
  }
  for (const json& stream : streams.is_array() ? streams : json::array()) {
    if (stream != "video" && stream != "audio") {
      throw BadInput("{}: streams: {} is no stream, expected \"video\" or \"audio\"", where, stream.dump());
    }
    stage.streams.push_back(stream);
  }
  if (stage.tiers.empty()) throw BadInput("{}: tiers: expected a list of tiers", where);
  if (stage.streams.empty()) throw BadInput("{}: streams: expected a list of \"video\" and \"audio\"", where);
  if (section.has("resolution")) stage.resolution = section.integer("resolution");
  if (section.has("frames")) stage.frames = section.integer("frames");
  stage.steps = section.integer("steps");
  return stage;
}

/// Tiers by quality, in equal parts of the set, and which of the curriculum's stages take a clip.
class Curriculum final : public Stage {
 public:
  explicit Curriculum(const Options& options)
      : stages_(options.curriculum.empty() ? default_curriculum() : read_curriculum(options.curriculum)) {}
  const char* name() const override { return "curriculum"; }
  json settings() const override { return {{"stages", to_json(stages_)}}; }

  json measure(const json& row) const override { return {{"quality", rounded(quality_of(row))}}; }

  std::vector<json> collect(std::vector<json> rows, std::vector<json> measured) const override {
    std::vector<size_t> order(rows.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::sort(order, {}, [&](size_t i) {
      return std::pair(measured[i].at("quality").get<double>(), rows[i].at("id").get_ref<const std::string&>());
    });
    const json stages = to_json(stages_);
    for (size_t place = 0; place < order.size(); ++place) {
      json& row = rows[order[place]];
      row[name()] = std::move(measured[order[place]]);
      row[name()]["tier"] = 1 + place * kNumTiers / order.size();
      row[name()]["stages"] = json::array();
      for (size_t s = 0; s < stages.size(); ++s) {
        if (takes(stages[s], row)) row[name()]["stages"].push_back(s);
      }
    }
    return rows;
  }

 private:
  std::vector<CurriculumStage> stages_;
};

}  // namespace

std::vector<CurriculumStage> read_curriculum(const std::filesystem::path& file) {
  const io::JsonSection section = io::JsonSection::open(file);
  for (const std::string& key : section.keys()) {
    if (key != "stages") throw BadInput("{}: unknown key {}, expected \"stages\"", file.string(), in_quotes(key));
  }
  const json list = section.has("stages") ? section.at("stages") : json();
  if (!list.is_array() || list.empty()) throw BadInput("{}: stages: expected a list of stages", file.string());
  std::vector<CurriculumStage> stages;
  for (size_t i = 0; i < list.size(); ++i) {
    stages.push_back(read_stage(list[i], fmt::format("{}: stages[{}]", file.string(), i)));
  }
  return stages;
}

std::vector<CurriculumStage> default_curriculum() {
  constexpr int64_t kSteps = 1000;
  return {{.tiers = {1, 2, 3}, .streams = {"video"}, .steps = kSteps},
          {.tiers = {1, 2, 3}, .streams = {"audio"}, .steps = kSteps},
          {.tiers = {2, 3}, .streams = {"video", "audio"}, .steps = kSteps},
          {.tiers = {3}, .streams = {"video", "audio"}, .steps = kSteps}};
}

Draw draw_rows(const Manifest& manifest, uint64_t seed, int64_t step, int64_t count) {
  if (manifest.stage != "curriculum")
    throw BadInput("a manifest of stage {}, expected one of curriculum", manifest.stage);
  const json stages = json::parse(manifest.settings).at("stages");
  Draw draw;
  int64_t begin = 0;
  while (draw.stage < stages.size() && step >= begin + stages[draw.stage].at("steps").get<int64_t>()) {
    begin += stages[draw.stage++].at("steps").get<int64_t>();
  }
  if (draw.stage == stages.size()) throw BadInput("step {}: the curriculum has {} steps", step, begin);
  std::vector<const json*> rows;
  for (const json& row : manifest.rows) {
    const json& takers = row.at("curriculum").at("stages");
    if (std::ranges::find(takers, json(draw.stage)) != takers.end()) rows.push_back(&row);
  }
  if (rows.empty()) throw BadInput("stage {} of the curriculum has no clips", draw.stage);
  const auto num_rows = static_cast<int64_t>(rows.size());
  std::vector<int64_t> order;
  for (int64_t i = 0, last_epoch = -1; i < count; ++i) {
    const int64_t place = (step - begin) * count + i, epoch = place / num_rows;
    if (epoch != last_epoch) {
      order.resize(rows.size());
      std::iota(order.begin(), order.end(), int64_t{0});
      RandomStream stream(
          {.seed = seed, .step = static_cast<uint64_t>(epoch), .segment = draw.stage, .purpose = Purpose::sft_order});
      for (int64_t k = num_rows - 1; k > 0; --k) std::swap(order[k], order[stream.below(static_cast<uint64_t>(k) + 1)]);
      last_epoch = epoch;
    }
    draw.rows.push_back(*rows[static_cast<size_t>(order[static_cast<size_t>(place % num_rows)])]);
  }
  return draw;
}

std::unique_ptr<Stage> make_curriculum(const Options& options) { return std::make_unique<Curriculum>(options); }

}  // namespace unigrpo::ingest

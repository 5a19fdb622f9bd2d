#include "parallel/layer_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "io/json_section.h"

namespace unigrpo::parallel {
namespace {

constexpr std::array kFields = {"shard", "tp", "sp", "recompute", "stage"};

int64_t read_stage(const nlohmann::json& object, const std::string& where) {
  if (!object.contains("stage")) return 0;
  const nlohmann::json& stage = object["stage"];
  if (stage.is_number_unsigned() && stage <= io::JsonSection::kMaxSize) return stage.get<int64_t>();
  throw BadInput("{}: 'stage' is {}; expected a whole number from 0 on", where, stage.dump());
}

/// Of each layer: that of the layer before it, or the next one.
void check_stages(const std::vector<LayerPlan>& layers, const std::string& file) {
  int64_t before = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const int64_t stage = layers[i].stage;
    if (stage != before && (i == 0 || stage != before + 1)) {
      throw BadInput("{}: layers[{}]: 'stage' is {}; expected {}", file, i, stage,
                     i == 0 ? "0 for the first layer" : fmt::format("{0} as before or {1}", before, before + 1));
    }
    before = stage;
  }
}

Schedule read_schedule(const nlohmann::json& object, const std::string& file) {
  if (!object.contains("schedule")) return Schedule::one_f_one_b;
  const auto schedule =
      object["schedule"].is_string() ? enum_value<Schedule>(object["schedule"].get<std::string>()) : std::nullopt;
  if (!schedule) throw BadInput("{}: 'schedule' is {}; expected 1f1b or gpipe", file, object["schedule"].dump());
  return *schedule;
}

LayerPlan read_layer(const nlohmann::json& object, const std::string& where, const LayerPlan& otherwise) {
  if (!object.is_object()) throw BadInput("{}: expected an object, got {}", where, object.dump());
  for (const auto& [key, value] : object.items()) {
    if (std::ranges::none_of(kFields, [&](const char* field) { return key == field; })) {
      throw BadInput("{}: unknown field '{}'; expected one of {}", where, key, fmt::join(kFields, ", "));
    }
  }
  const io::JsonSection section(object, where);
  LayerPlan layer{.shard = otherwise.shard,
                  .tp = section.integer("tp", otherwise.tp),
                  .sp = section.integer("sp", otherwise.sp),
                  .recompute = section.boolean("recompute", otherwise.recompute),
                  .stage = read_stage(object, where)};
  const std::string shard = section.text("shard", std::string(enum_name(otherwise.shard)));
  const auto level = enum_value<Shard>(shard);
  if (!level) throw BadInput("{}: 'shard' is \"{}\"; expected {}", where, shard, enum_choices<Shard>());
  layer.shard = *level;
  return layer;
}

}  // namespace

int64_t count_stages(const std::vector<LayerPlan>& layers) { return layers.empty() ? 1 : layers.back().stage + 1; }

const LayerPlan& most_shared(const std::vector<LayerPlan>& layers) {
  return *std::ranges::max_element(layers, {}, &LayerPlan::ranks);
}

void check_products(const std::vector<LayerPlan>& layers, const std::string& file) {
  const LayerPlan& most = most_shared(layers);
  for (size_t i = 0; i < layers.size(); ++i) {
    if (most.ranks() % layers[i].ranks() == 0) continue;
    throw BadInput("{}: layers[{}]: tp = {} x sp = {}; expected a product that divides the largest, {}", file, i,
                   layers[i].tp, layers[i].sp, most.ranks());
  }
}

LayerPlans read_layer_plan(const std::filesystem::path& file, const LayerPlan& otherwise) {
  const nlohmann::json object = io::read_json_file(file);
  const size_t keys = object.is_object() && object.contains("schedule") ? 2 : 1;
  if (!object.is_object() || object.size() != keys || !object.contains("layers") || !object["layers"].is_array() ||
      object["layers"].empty()) {
    throw BadInput("{}: expected an object with 'layers', a list with an object for each layer, and perhaps 'schedule'",
                   file.string());
  }
  LayerPlans plans{.layers = {}, .schedule = read_schedule(object, file.string()), .rest = otherwise.shard};
  for (const nlohmann::json& layer : object["layers"]) {
    const std::string where = fmt::format("{}: layers[{}]", file.string(), plans.layers.size());
    plans.layers.push_back(read_layer(layer, where, otherwise));
  }
  check_stages(plans.layers, file.string());
  check_products(plans.layers, file.string());
  return plans;
}

}  // namespace unigrpo::parallel

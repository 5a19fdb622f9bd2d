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

LayerPlan read_layer(const nlohmann::json& object, const std::string& where, const LayerPlan& otherwise) {
  if (!object.is_object()) throw BadInput("{}: expected an object, got {}", where, object.dump());
  for (const auto& [key, value] : object.items()) {
    if (std::ranges::none_of(kFields, [&](const char* field) { return key == field; })) {
      throw BadInput("{}: unknown field '{}'; expected one of {}", where, key, fmt::join(kFields, ", "));
    }
  }
  if (object.contains("stage") && object["stage"] != 0) {
    throw BadInput("{}: 'stage' is {}; there are no pipeline stages yet, expected 0", where, object["stage"].dump());
  }
  const io::JsonSection section(object, where);
  LayerPlan layer{.shard = section.text("shard", otherwise.shard),
                  .tp = section.integer("tp", otherwise.tp),
                  .sp = section.integer("sp", otherwise.sp),
                  .recompute = section.boolean("recompute", otherwise.recompute)};
  if (layer.shard != otherwise.shard) {
    throw BadInput("{}: 'shard' is \"{}\"; expected \"{}\", one level for all layers", where, layer.shard,
                   otherwise.shard);
  }
  return layer;
}

}  // namespace

std::vector<LayerPlan> read_layer_plan(const std::filesystem::path& file, const LayerPlan& otherwise) {
  const nlohmann::json object = io::read_json_file(file);
  if (!object.is_object() || object.size() != 1 || !object.contains("layers") || !object["layers"].is_array() ||
      object["layers"].empty()) {
    throw BadInput("{}: expected an object with one key, 'layers', a list with an object for each layer",
                   file.string());
  }
  std::vector<LayerPlan> layers;
  for (const nlohmann::json& layer : object["layers"]) {
    layers.push_back(read_layer(layer, fmt::format("{}: layers[{}]", file.string(), layers.size()), otherwise));
    const LayerPlan& first = layers.front();
    const LayerPlan& last = layers.back();
    if (last.tp * last.sp == first.tp * first.sp) continue;
    throw BadInput("{}: layers[{}]: tp = {} x sp = {}; expected a product of {}, as in layers[0]", file.string(),
                   layers.size() - 1, last.tp, last.sp, first.tp * first.sp);
  }
  return layers;
}

}  // namespace unigrpo::parallel

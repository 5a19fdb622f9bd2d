#include "scorers/clip_config.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "base/error.h"
#include "io/json.h"

namespace unigrpo::scorers {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr int64_t kMaxSize = int64_t{1} << 24;  // of any one size; their products stay far below 2^63
constexpr int kBicubic = 3;                     // PIL.Image.Resampling.BICUBIC

/// Typed reads of a JSON object; a key that is absent or null has its fallback. BadInput names file and key.
class Fields {
 public:
  Fields(json object, std::string where) : object_(std::move(object)), where_(std::move(where)) {
    if (!object_.is_object()) throw BadInput("{}: expected a JSON object, got {}", where_, object_.type_name());
  }

  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }

  int64_t integer(const char* key, int64_t fallback) const {
    if (!has(key)) return fallback;
    const json& value = object_[key];
    if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > kMaxSize) {
      throw BadInput("{}: '{}' must be an integer from 1 to {}, got {}", where_, key, kMaxSize, value.dump());
    }
    return value.get<int64_t>();
  }

  double positive(const char* key, double fallback) const {
    if (!has(key)) return fallback;
    const json& value = object_[key];
    if (!value.is_number() || value.get<double>() <= 0) {
      throw BadInput("{}: '{}' must be a number above 0, got {}", where_, key, value.dump());
    }
    return value.get<double>();
  }

  std::array<double, 3> channels(const char* key, const std::array<double, 3>& fallback) const {
    if (!has(key)) return fallback;
    const json& value = object_[key];
    const auto is_number = [](const json& item) { return item.is_number(); };
    if (!value.is_array() || value.size() != 3 || !std::ranges::all_of(value, is_number)) {
      throw BadInput("{}: '{}' must be three numbers, got {}", where_, key, value.dump());
    }
    return value.get<std::array<double, 3>>();
  }

  /// Throws unless the key has this value, or is absent.
  void expect(const char* key, const json& value) const {
    if (has(key) && object_[key] != value) {
      throw BadInput("{}: '{}' is {}; only {} is supported", where_, key, object_[key].dump(), value.dump());
    }
  }

  /// A number, or the number by one of these names in an object.
  int64_t size(const char* key, std::initializer_list<const char*> names, int64_t fallback) const {
    if (!has(key) || !object_[key].is_object()) return integer(key, fallback);
    const Fields inner = section(key);
    for (const char* name : names) {
      if (!inner.has(name)) throw BadInput("{}: '{}' is missing", inner.where_, name);
      inner.expect(name, inner.object_[*names.begin()]);
    }
    return inner.integer(*names.begin(), fallback);
  }

  Fields section(const char* key) const { return {has(key) ? object_[key] : json::object(), where_ + ": " + key}; }

  const std::string& where() const { return where_; }
  const json& at(const char* key) const { return object_[key]; }

 private:
  json object_;
  std::string where_;
};

Fields read_fields(const std::filesystem::path& path) {
  return {io::read_json_file(path, {.wide_integers = true}, kMaxConfigBytes), path.string()};
}

ClipTowerConfig read_tower(const Fields& fields, ClipTowerConfig tower) {
  tower.hidden_size = fields.integer("hidden_size", tower.hidden_size);
  tower.intermediate_size = fields.integer("intermediate_size", tower.intermediate_size);
  tower.num_layers = fields.integer("num_hidden_layers", tower.num_layers);
  tower.num_heads = fields.integer("num_attention_heads", tower.num_heads);
  tower.layer_norm_eps = fields.positive("layer_norm_eps", tower.layer_norm_eps);
  if (tower.hidden_size % tower.num_heads != 0) {
    throw BadInput("{}: hidden_size {} must be a multiple of num_attention_heads {}", fields.where(), tower.hidden_size,
                   tower.num_heads);
  }
  if (fields.has("hidden_act")) {
    const json& act = fields.at("hidden_act");
    if (act != "quick_gelu" && act != "gelu") {
      throw BadInput("{}: 'hidden_act' must be \"quick_gelu\" or \"gelu\", got {}", fields.where(), act.dump());
    }
    tower.quick_gelu = act == "quick_gelu";
  }
  return tower;
}

/// The tower's section; where an old file has `..._config_dict` as well, that one counts.
Fields tower_section(const Fields& root, const std::string& name) {
  const std::string old = name + "_dict";
  return root.section(root.has(old.c_str()) ? old.c_str() : name.c_str());
}

}  // namespace

ClipConfig read_clip_config(const std::filesystem::path& folder) {
  const Fields root = read_fields(folder / "config.json");
  root.expect("model_type", "clip");
  ClipConfig config;
  config.projection_dim = root.integer("projection_dim", config.projection_dim);

  const Fields text = tower_section(root, "text_config");
  config.text = read_tower(text, config.text);
  config.vocab_size = text.integer("vocab_size", config.vocab_size);
  config.max_positions = text.integer("max_position_embeddings", config.max_positions);
  config.eos_token_id = text.integer("eos_token_id", config.eos_token_id);
  if (config.max_positions < 2) {
    throw BadInput("{}: 'max_position_embeddings' must leave room for the start and the end token, got 1",
                   text.where());
  }

  const Fields vision = tower_section(root, "vision_config");
  config.vision = read_tower(vision, config.vision);
  config.image_size = vision.integer("image_size", config.image_size);
  config.patch_size = vision.integer("patch_size", config.patch_size);
  vision.expect("num_channels", 3);
  if (config.image_size % config.patch_size != 0) {
    throw BadInput("{}: image_size {} must be a multiple of patch_size {}", vision.where(), config.image_size,
                   config.patch_size);
  }
  return config;
}

ClipImageConfig read_clip_image_config(const std::filesystem::path& folder, int64_t image_size) {
  const Fields fields = read_fields(folder / "preprocessor_config.json");
  for (const char* step : {"do_resize", "do_center_crop", "do_rescale", "do_normalize"}) fields.expect(step, true);
  fields.expect("resample", kBicubic);
  ClipImageConfig config;
  config.shortest_edge = fields.size("size", {"shortest_edge"}, config.shortest_edge);
  config.crop_size = fields.size("crop_size", {"height", "width"}, config.crop_size);
  config.rescale_factor = fields.positive("rescale_factor", config.rescale_factor);
  config.mean = fields.channels("image_mean", config.mean);
  config.std = fields.channels("image_std", config.std);
  if (std::ranges::any_of(config.std, [](double value) { return value <= 0; })) {
    throw BadInput("{}: 'image_std' must be above 0", fields.where());
  }
  if (config.crop_size > config.shortest_edge) {
    throw BadInput("{}: crop_size {} is larger than the picture, whose shortest side is {}", fields.where(),
                   config.crop_size, config.shortest_edge);
  }
  if (config.crop_size != image_size) {
    throw BadInput("{}: crop_size is {}, but config.json says image_size {}", fields.where(), config.crop_size,
                   image_size);
  }
  return config;
}

}  // namespace unigrpo::scorers

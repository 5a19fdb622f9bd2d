#include "scorers/clip_config.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "io/json_section.h"

namespace unigrpo::scorers {
namespace {

using io::JsonSection;
using nlohmann::json;

constexpr int kBicubic = 3;  // PIL.Image.Resampling.BICUBIC

std::array<double, 3> read_channels(const JsonSection& section, const char* key,
                                    const std::array<double, 3>& fallback) {
  if (!section.has(key)) return fallback;
  const json& value = section.at(key);
  const auto is_number = [](const json& item) { return item.is_number(); };
  if (!value.is_array() || value.size() != 3 || !std::ranges::all_of(value, is_number)) {
    throw BadInput("{}: '{}' must be three numbers, got {}", section.where(), key, value.dump());
  }
  return value.get<std::array<double, 3>>();
}

/// A number, or the one number that an object has by all of these names.
int64_t read_side(const JsonSection& section, const char* key, std::initializer_list<const char*> names,
                  int64_t fallback) {
  if (!section.has(key) || !section.at(key).is_object()) return section.integer(key, fallback);
  const JsonSection inner = section.section(key);
  for (const char* name : names) {
    if (!inner.has(name)) throw BadInput("{}: '{}' is missing", inner.where(), name);
    inner.expect(name, inner.at(*names.begin()));
  }
  return inner.integer(*names.begin());
}

nn::EncoderConfig read_tower(const JsonSection& fields, nn::EncoderConfig tower) {
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
    tower.activation = act == "quick_gelu" ? nn::Activation::quick_gelu : nn::Activation::gelu;
  }
  return tower;
}

/// The tower's section; where an old file has `..._config_dict` as well, that one counts.
JsonSection tower_section(const JsonSection& root, const std::string& name) {
  const std::string old = name + "_dict";
  return root.section(root.has(old.c_str()) ? old.c_str() : name.c_str());
}

/// A processor's image settings: transformers 5 writes them into processor_config.json, under `image_processor`, and
/// takes those where a folder has both (image_processing_base.py of 5.24).
JsonSection open_image_settings(const std::filesystem::path& folder) {
  constexpr const char* kSection = "image_processor";
  const auto processor = folder / "processor_config.json", own = folder / "preprocessor_config.json";
  if (std::filesystem::exists(processor)) {
    const auto root = JsonSection::open(processor);
    if (root.has(kSection)) return root.section(kSection);
  }
  if (!std::filesystem::exists(own)) {
    throw BadInput(
        "{}: no such file, and no processor_config.json with '{}' beside it; one of them says how images are "
        "prepared",
        own.string(), kSection);
  }
  return JsonSection::open(own);
}

}  // namespace

ClipConfig read_clip_config(const std::filesystem::path& folder) {
  const auto root = JsonSection::open(folder / "config.json");
  root.expect("model_type", "clip");
  ClipConfig config;
  config.projection_dim = root.integer("projection_dim", config.projection_dim);

  const JsonSection text = tower_section(root, "text_config");
  config.text = read_tower(text, config.text);
  config.vocab_size = text.integer("vocab_size", config.vocab_size);
  config.max_positions = text.integer("max_position_embeddings", config.max_positions);
  config.eos_token_id = text.integer("eos_token_id", config.eos_token_id);
  if (config.max_positions < 2) {
    throw BadInput("{}: 'max_position_embeddings' must leave room for the start and the end token, got 1",
                   text.where());
  }

  const JsonSection vision = tower_section(root, "vision_config");
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
  const auto fields = open_image_settings(folder);
  for (const char* step : {"do_resize", "do_center_crop", "do_rescale", "do_normalize"}) fields.expect(step, true);
  fields.expect("resample", kBicubic);
  ClipImageConfig config;
  config.shortest_edge = read_side(fields, "size", {"shortest_edge"}, config.shortest_edge);
  config.crop_size = read_side(fields, "crop_size", {"height", "width"}, config.crop_size);
  config.rescale_factor = fields.positive("rescale_factor", config.rescale_factor);
  config.mean = read_channels(fields, "image_mean", config.mean);
  config.std = read_channels(fields, "image_std", config.std);
  if (std::ranges::any_of(config.std, [](double value) { return value <= 0; })) {
    throw BadInput("{}: 'image_std' must be above 0", fields.where());
  }
  if (config.crop_size > config.shortest_edge) {
    throw BadInput("{}: crop_size {} is larger than the image, whose shortest side is {}", fields.where(),
                   config.crop_size, config.shortest_edge);
  }
  if (config.crop_size != image_size) {
    throw BadInput("{}: crop_size is {}, but config.json says image_size {}", fields.where(), config.crop_size,
                   image_size);
  }
  return config;
}

}  // namespace unigrpo::scorers

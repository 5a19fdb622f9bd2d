#include "train/generation_config.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "policy/family.h"

namespace unigrpo::train {
namespace {

using nlohmann::json;

template <typename T>
void read_value(const json& object, const std::string& file, const char* key, const char* expected,
                bool (json::*is_type)() const noexcept, T& value) {
  if (!object.contains(key)) return;
  if (!(object[key].*is_type)()) throw BadInput("{}: '{}' must be {}, got {}", file, key, expected, object[key].dump());
  value = object[key].get<T>();
}

void read_count(const json& object, const std::string& file, const char* key, int64_t& value) {
  read_value(object, file, key, "a positive integer", &json::is_number_integer, value);
  if (value < 1 || value > 1'000'000)
    throw BadInput("{}: '{}' must be 1 to 1e6, got {}", file, key, object.at(key).dump());
}

void read_positive(const json& object, const std::string& file, const char* key, double& value) {
  read_value(object, file, key, "a number", &json::is_number, value);
  if (!(value > 0)) throw BadInput("{}: '{}' must be above 0, got {}", file, key, value);
}

nlohmann::ordered_json to_object(const GenerationConfig& config) {
  nlohmann::ordered_json object;
  object["episode"] = json::array();
  for (const data::SegmentKind kind : config.episode) object["episode"].push_back(std::string(enum_name(kind)));
  object["image_size"] = config.image_size;
  object["num_steps"] = config.num_steps;
  object["timestep_shift"] = config.timestep_shift;
  object["max_tokens"] = config.max_tokens;
  object["temperature"] = config.temperature;
  object["cfg_scale"] = config.guidance.text_scale;
  object["cfg_image_scale"] = config.guidance.image_scale;
  object["cfg_renorm_type"] = std::string(enum_name(config.guidance.renorm));
  object["cfg_renorm_min"] = config.guidance.renorm_min;
  object["cfg_interval"] = {config.guidance.interval_low, config.guidance.interval_high};
  object["system_prompt"] = config.system_prompt;
  return object;
}

}  // namespace

GenerationConfig read_generation_config(const std::filesystem::path& model_folder) {
  GenerationConfig config;
  if (std::filesystem::exists(model_folder / "config.json") && !policy::family_of(model_folder).generates_images) {
    config.episode = {data::SegmentKind::text};
  }
  const auto path = model_folder / "generation_config.json";
  if (!std::filesystem::exists(path)) return config;
  const std::string file = path.string();
  const json object = io::parse_json(io::read_text_file(path, size_t{1} << 20), file);
  if (!object.is_object()) throw BadInput("{}: expected a JSON object", file);
  if (object.contains("episode")) {
    const json& list = object["episode"];
    if (!list.is_array() || list.empty())
      throw BadInput("{}: 'episode' must be a list of \"text\" and \"image\"", file);
    config.episode.clear();
    for (const json& word : list) {
      const auto kind = word.is_string() ? enum_value<data::SegmentKind>(word.get<std::string>()) : std::nullopt;
      if (!kind) throw BadInput("{}: 'episode' must be a list of \"text\" and \"image\", got {}", file, word.dump());
      config.episode.push_back(*kind);
    }
  }
  read_count(object, file, "image_size", config.image_size);
  read_count(object, file, "num_steps", config.num_steps);
  read_count(object, file, "max_tokens", config.max_tokens);
  read_positive(object, file, "timestep_shift", config.timestep_shift);
  read_positive(object, file, "temperature", config.temperature);
  read_positive(object, file, "cfg_scale", config.guidance.text_scale);
  read_positive(object, file, "cfg_image_scale", config.guidance.image_scale);
  read_value(object, file, "cfg_renorm_min", "a number", &json::is_number, config.guidance.renorm_min);
  std::string renorm(enum_name(config.guidance.renorm));
  read_value(object, file, "cfg_renorm_type", "a string", &json::is_string, renorm);
  const auto kind = enum_value<flow::Renorm>(renorm);
  if (!kind) throw BadInput("{}: 'cfg_renorm_type' must be {}, got '{}'", file, enum_choices<flow::Renorm>(), renorm);
  config.guidance.renorm = *kind;
  if (object.contains("cfg_interval")) {
    const json& ends = object["cfg_interval"];
    if (!ends.is_array() || ends.size() != 2 || !ends[0].is_number() || !ends[1].is_number()) {
      throw BadInput("{}: 'cfg_interval' must be [low, high], two times, got {}", file, ends.dump());
    }
    config.guidance.interval_low = ends[0].get<double>();
    config.guidance.interval_high = ends[1].get<double>();
  }
  read_value(object, file, "system_prompt", "a string", &json::is_string, config.system_prompt);
  return config;
}

std::string to_json(const GenerationConfig& config) { return to_object(config).dump(2) + "\n"; }

std::string to_json(const GenerationConfig& config, const std::filesystem::path& model_folder) {
  nlohmann::ordered_json object = to_object(config);
  const auto path = model_folder / "generation_config.json";
  if (std::filesystem::exists(path)) {
    const json others = io::parse_json(io::read_text_file(path, size_t{1} << 20), path.string());
    for (const auto& [key, value] : others.items()) {
      if (!object.contains(key)) object[key] = value;
    }
  }
  return object.dump(2) + "\n";
}

rollout::RolloutConfig to_rollout_config(const GenerationConfig& config) {
  rollout::RolloutConfig settings;
  settings.episode = config.episode;
  settings.image_size = config.image_size;
  settings.num_steps = config.num_steps;
  settings.timestep_shift = config.timestep_shift;
  settings.max_tokens = config.max_tokens;
  settings.temperature = config.temperature;
  return settings;
}

}  // namespace unigrpo::train

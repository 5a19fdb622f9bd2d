#include "train/generation_config.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/model_folder.h"
#include "policy/family.h"

namespace unigrpo::train {
namespace {

using nlohmann::json;

constexpr double kMaxScale = 100;
constexpr int64_t kMaxSide = 8192;  // of a clip, pixels
constexpr int64_t kMaxSteps = 10'000, kMaxCount = 1'000'000;

/// A key's value, or null where it is absent.
const json& value_of(const json& object, const char* key) {
  static const json kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

template <typename T>
void read_value(const json& object, const std::string& file, const char* key, const char* expected,
                bool (json::*is_type)() const noexcept, T& value) {
  const json& found = value_of(object, key);
  if (found.is_null()) return;
  if (!(found.*is_type)()) throw BadInput("{}: '{}' must be {}, got {}", file, key, expected, found.dump());
  value = found.get<T>();
}

void read_count(const json& object, const std::string& file, const char* key, int64_t& value) {
  read_value(object, file, key, "a positive integer", &json::is_number_integer, value);
  const json& found = value_of(object, key);
  if (found.is_number_unsigned() && found.get<uint64_t>() > static_cast<uint64_t>(kMaxCount)) value = kMaxCount + 1;
}

void read_number(const json& object, const std::string& file, const char* key, double& value) {
  read_value(object, file, key, "a number", &json::is_number, value);
}

/// Keys of transformers that describe a model or how a program runs it, not how its tokens are chosen.
constexpr std::string_view kDescribe[] = {"_from_model_config",     "bos_token_id",    "cache_config",
                                          "cache_implementation",   "compile_config",  "continuous_batching_config",
                                          "decoder_start_token_id", "disable_compile", "do_sample",
                                          "eos_token_id",           "max_new_tokens",  "pad_token_id",
                                          "transformers_version",   "use_cache"};
/// Those that act where tokens are drawn alone.
constexpr std::string_view kOfDraws[] = {"top_p",     "top_k",          "min_p",     "top_h",
                                         "typical_p", "epsilon_cutoff", "eta_cutoff"};
/// Those for which 1, and those for which 0, is the same as nothing.
constexpr std::string_view kOffAtOne[] = {
    "top_p",     "typical_p",       "repetition_penalty", "encoder_repetition_penalty", "length_penalty",
    "num_beams", "num_beam_groups", "guidance_scale",     "num_return_sequences"};
constexpr std::string_view kOffAtZero[] = {"top_k",
                                           "min_p",
                                           "epsilon_cutoff",
                                           "eta_cutoff",
                                           "min_length",
                                           "min_new_tokens",
                                           "no_repeat_ngram_size",
                                           "diversity_penalty",
                                           "penalty_alpha",
                                           "encoder_no_repeat_ngram_size"};

template <size_t N>
bool among(const std::string_view (&names)[N], const std::string& name) {
  return std::ranges::find(names, name) != std::end(names);
}

bool changes_nothing(const std::string& key, const json& value, bool greedy) {
  if (value.is_null() || value == false || (value.is_structured() && value.empty())) return true;
  if (among(kDescribe, key) || key.starts_with("output_") || key.starts_with("return_")) return true;
  if (greedy && among(kOfDraws, key)) return true;
  return value.is_number() && ((among(kOffAtOne, key) && value == 1) || (among(kOffAtZero, key) && value == 0));
}

/// What other tools' keys say: taken over, or noted as left out.
void read_other_keys(const json& object, const std::string& file, GenerationConfig& config) {
  bool samples = true;
  read_value(object, file, "do_sample", "true or false", &json::is_boolean, samples);
  config.greedy = !samples;
  if (value_of(object, "max_tokens").is_null()) read_count(object, file, "max_new_tokens", config.max_tokens);
  const json& end = value_of(object, "eos_token_id");
  for (const json& id : end.is_array() ? end : json::array({end})) {
    if (id.is_number_integer()) config.end_tokens.push_back(id.get<int64_t>());
  }
}

bool draws_clips(const GenerationConfig& config) {
  return std::ranges::count(config.episode, data::SegmentKind::av) > 0;
}

void read_clip(const json& clip, const std::string& file, rollout::ClipConfig& config) {
  if (clip.is_null()) return;
  if (!clip.is_object()) throw BadInput("{}: 'clip' must be an object, got {}", file, clip.dump());
  const std::string where = file + ": clip";
  read_count(clip, where, "frames", config.frames);
  read_count(clip, where, "height", config.height);
  read_count(clip, where, "width", config.width);
  read_number(clip, where, "fps", config.fps);
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
  if (config.greedy) object["do_sample"] = false;
  if (!config.greedy && config.cut.top_k > 0) object["top_k"] = config.cut.top_k;
  if (!config.greedy && config.cut.top_p < 1) object["top_p"] = config.cut.top_p;
  if (!config.greedy && config.cut.min_p > 0) object["min_p"] = config.cut.min_p;
  object["cfg_scale"] = config.guidance.text_scale;
  object["cfg_image_scale"] = config.guidance.image_scale;
  object["cfg_renorm_type"] = std::string(enum_name(config.guidance.renorm));
  object["cfg_renorm_min"] = config.guidance.renorm_min;
  object["cfg_interval"] = {config.guidance.interval_low, config.guidance.interval_high};
  object["system_prompt"] = config.system_prompt;
  if (draws_clips(config)) {
    const rollout::ClipConfig& clip = config.clip;
    object["clip"] = {{"frames", clip.frames}, {"height", clip.height}, {"width", clip.width}, {"fps", clip.fps}};
  }
  return object;
}

}  // namespace

void draw_from_all(GenerationConfig& config) {
  const rollout::Truncation cut = std::exchange(config.cut, {});
  if (cut.top_k > 0) config.left_out.push_back(fmt::format("top_k = {}", cut.top_k));
  if (cut.top_p < 1) config.left_out.push_back(fmt::format("top_p = {}", cut.top_p));
  if (cut.min_p > 0) config.left_out.push_back(fmt::format("min_p = {}", cut.min_p));
}

void check_ranges(const GenerationConfig& config, const std::string& where) {
  const auto count = [&](const char* key, int64_t value, int64_t most) {
    if (value >= 1 && value <= most) return;
    throw BadInput("{}: '{}' must be 1 to {}, got {}", where, key, most, value);
  };
  const auto number = [&](const char* key, double value, double low, double high) {
    if (value >= low && value <= high) return;
    throw BadInput("{}: '{}' must be {} to {}, got {}", where, key, low, high, value);
  };
  const auto positive = [&](const char* key, double value) {
    if (value > 0 && std::isfinite(value)) return;
    throw BadInput("{}: '{}' must be above 0, got {}", where, key, value);
  };
  count("image_size", config.image_size, kMaxCount);
  count("num_steps", config.num_steps, kMaxSteps);
  count("max_tokens", config.max_tokens, kMaxCount);
  positive("timestep_shift", config.timestep_shift);
  if (!config.greedy) {
    positive("temperature", config.temperature);
    if (config.cut.top_k < 0 || config.cut.top_k > kMaxCount) {
      throw BadInput("{}: 'top_k' must be 0 to {}, got {}", where, kMaxCount, config.cut.top_k);
    }
    number("top_p", config.cut.top_p, 0, 1);
    number("min_p", config.cut.min_p, 0, 1);
  }
  if (draws_clips(config)) {
    count("clip.frames", config.clip.frames, kMaxSteps);
    count("clip.height", config.clip.height, kMaxSide);
    count("clip.width", config.clip.width, kMaxSide);
    number("clip.fps", config.clip.fps, 1, 240);
  }
  number("cfg_scale", config.guidance.text_scale, 1, kMaxScale);
  number("cfg_image_scale", config.guidance.image_scale, 1, kMaxScale);
  number("cfg_renorm_min", config.guidance.renorm_min, 0, 1);
  const double low = config.guidance.interval_low, high = config.guidance.interval_high;
  if (!(low >= 0 && low < high && high <= 1)) {
    throw BadInput("{}: 'cfg_interval' must be [low, high] with 0 <= low < high <= 1, got [{}, {}]", where, low, high);
  }
}

GenerationConfig read_generation_config(const std::filesystem::path& model_folder) {
  return read_generation_config(model_folder, model_folder / io::kGenerationConfig);
}

GenerationConfig read_generation_config(const std::filesystem::path& model_folder, const std::filesystem::path& path) {
  GenerationConfig config;
  if (std::filesystem::exists(model_folder / "config.json") ||
      std::filesystem::exists(model_folder / "model_index.json")) {
    const policy::Family& family = policy::family_of(model_folder);
    if (family.generates_clips) {
      config.episode = {data::SegmentKind::av};
    } else if (!family.generates_images) {
      config.episode = {data::SegmentKind::text};
    }
    const policy::SamplingDefaults defaults = family.sampling_defaults(model_folder);
    config.image_size = defaults.image_size;
    config.timestep_shift = defaults.timestep_shift;
  }
  if (!std::filesystem::exists(path)) return config;
  const std::string file = path.string();
  const json object = io::parse_json(io::read_text_file(path, size_t{1} << 20), file);
  if (!object.is_object()) throw BadInput("{}: expected a JSON object", file);
  if (const json& list = value_of(object, "episode"); !list.is_null()) {
    if (!list.is_array() || list.empty())
      throw BadInput("{}: 'episode' must be a list of \"text\", \"image\" and \"av\"", file);
    config.episode.clear();
    for (const json& word : list) {
      const auto kind = word.is_string() ? enum_value<data::SegmentKind>(word.get<std::string>()) : std::nullopt;
      if (!kind) {
        throw BadInput("{}: 'episode' must be a list of \"text\", \"image\" and \"av\", got {}", file, word.dump());
      }
      config.episode.push_back(*kind);
    }
  }
  read_other_keys(object, file, config);
  read_count(object, file, "image_size", config.image_size);
  read_count(object, file, "num_steps", config.num_steps);
  read_count(object, file, "max_tokens", config.max_tokens);
  read_number(object, file, "timestep_shift", config.timestep_shift);
  read_number(object, file, "temperature", config.temperature);
  read_value(object, file, "top_k", "an integer", &json::is_number_integer, config.cut.top_k);
  read_number(object, file, "top_p", config.cut.top_p);
  read_number(object, file, "min_p", config.cut.min_p);
  read_number(object, file, "cfg_scale", config.guidance.text_scale);
  read_number(object, file, "cfg_image_scale", config.guidance.image_scale);
  read_number(object, file, "cfg_renorm_min", config.guidance.renorm_min);
  std::string renorm(enum_name(config.guidance.renorm));
  read_value(object, file, "cfg_renorm_type", "a string", &json::is_string, renorm);
  const auto kind = enum_value<flow::Renorm>(renorm);
  if (!kind) throw BadInput("{}: 'cfg_renorm_type' must be {}, got '{}'", file, enum_choices<flow::Renorm>(), renorm);
  config.guidance.renorm = *kind;
  if (const json& ends = value_of(object, "cfg_interval"); !ends.is_null()) {
    if (!ends.is_array() || ends.size() != 2 || !ends[0].is_number() || !ends[1].is_number()) {
      throw BadInput("{}: 'cfg_interval' must be [low, high], two times, got {}", file, ends.dump());
    }
    config.guidance.interval_low = ends[0].get<double>();
    config.guidance.interval_high = ends[1].get<double>();
  }
  read_clip(value_of(object, "clip"), file, config.clip);
  config.prompt_given = !value_of(object, "system_prompt").is_null();
  read_value(object, file, "system_prompt", "a string", &json::is_string, config.system_prompt);
  check_ranges(config, file);
  if (config.greedy) config.temperature = 1.0;  // other tools write 0 or anything else there
  const auto ours = to_object(config);
  for (const auto& [key, value] : object.items()) {
    if (ours.contains(key) || changes_nothing(key, value, config.greedy)) continue;
    if (key == "max_length" && !value_of(object, "max_new_tokens").is_null()) continue;  // which it gives way to
    config.left_out.push_back(fmt::format("{} = {}", key, value.dump()));
  }
  return config;
}

std::string default_prompt(const std::filesystem::path& model_folder, const std::vector<data::SegmentKind>& episode) {
  if (!std::filesystem::exists(model_folder / "config.json")) return "";
  const auto text = std::ranges::find(episode, data::SegmentKind::text);
  if (std::find(text, episode.end(), data::SegmentKind::image) == episode.end()) return "";
  return std::string(policy::family_of(model_folder).sampling_defaults(model_folder).plan_prompt);
}

std::string told_left_out(const GenerationConfig& config, int64_t eos_id) {
  std::vector<std::string> told = config.left_out;
  if (std::ranges::any_of(config.end_tokens, [&](int64_t id) { return id != eos_id; })) {
    told.push_back(
        fmt::format("eos_token_id = {} (a text ends at token {} alone)", json(config.end_tokens).dump(), eos_id));
  }
  return told.empty() ? ""
                      : fmt::format("{}: left out, they do not act here: {}", io::kGenerationConfig, join(told, ", "));
}

std::string to_json(const GenerationConfig& config) { return to_object(config).dump(2) + "\n"; }

std::string to_line(const GenerationConfig& config) { return to_object(config).dump(); }

std::string to_json(const GenerationConfig& config, const std::filesystem::path& model_folder) {
  nlohmann::ordered_json object = to_object(config);
  const auto path = model_folder / io::kGenerationConfig;
  if (std::filesystem::exists(path)) {
    const json others = io::parse_json(io::read_text_file(path, size_t{1} << 20), path.string());
    for (const auto& [key, value] : others.items()) {
      if (!object.contains(key)) object[key] = value;
    }
    // Theirs for what ours say: both must say the same.
    if (others.contains("do_sample")) object["do_sample"] = !config.greedy;
    if (others.contains("max_new_tokens")) object["max_new_tokens"] = config.max_tokens;
    if (!config.greedy && others.contains("top_k")) object["top_k"] = config.cut.top_k;
    if (!config.greedy && others.contains("top_p")) object["top_p"] = config.cut.top_p;
    if (!config.greedy && others.contains("min_p")) object["min_p"] = config.cut.min_p;
  }
  return object.dump(2) + "\n";
}

rollout::RolloutConfig to_rollout_config(const GenerationConfig& config) {
  rollout::RolloutConfig settings;
  settings.episode = config.episode;
  settings.image_size = config.image_size;
  settings.clip = config.clip;
  settings.num_steps = config.num_steps;
  settings.timestep_shift = config.timestep_shift;
  settings.max_tokens = config.max_tokens;
  settings.temperature = config.greedy ? 0 : config.temperature;
  if (!config.greedy) settings.truncation = config.cut;
  return settings;
}

}  // namespace unigrpo::train

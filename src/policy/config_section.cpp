#include "policy/config_section.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace unigrpo::policy {

using nlohmann::json;

ConfigSection::ConfigSection(const json& object, std::string file) : object_(object), file_(std::move(file)) {
  if (!object.is_object()) throw BadInput("{}: expected a JSON object", file_);
}

bool ConfigSection::has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }

int64_t ConfigSection::integer(const char* key, std::optional<int64_t> fallback) const {
  if (!object_.contains(key)) {
    if (fallback) return *fallback;
    throw BadInput("{}: '{}' is missing (a positive integer)", file_, key);
  }
  const json& value = object_[key];
  if (!value.is_number_integer() || value.get<int64_t>() < 1 || value.get<int64_t>() > (int64_t{1} << 40)) {
    throw BadInput("{}: '{}' must be a positive integer, got {}", file_, key, value.dump());
  }
  return value.get<int64_t>();
}

double ConfigSection::number(const char* key, double fallback) const {
  if (!object_.contains(key)) return fallback;
  if (!object_[key].is_number()) throw BadInput("{}: '{}' must be a number, got {}", file_, key, object_[key].dump());
  return object_[key].get<double>();
}

bool ConfigSection::boolean(const char* key, bool fallback) const {
  if (!object_.contains(key)) return fallback;
  if (!object_[key].is_boolean()) throw BadInput("{}: '{}' must be true or false", file_, key);
  return object_[key].get<bool>();
}

std::string ConfigSection::text(const char* key, const std::string& fallback) const {
  if (!object_.contains(key)) return fallback;
  if (!object_[key].is_string()) throw BadInput("{}: '{}' must be a string, got {}", file_, key, object_[key].dump());
  return object_[key].get<std::string>();
}

json read_config_file(const std::filesystem::path& path) {
  return io::parse_json(io::read_text_file(path, size_t{16} << 20), path.string());
}

MotConfig read_mot_config(const ConfigSection& s, const MotConfig& family) {
  MotConfig c = family;
  c.hidden_size = s.integer("hidden_size");
  c.intermediate_size = s.integer("intermediate_size");
  c.num_layers = s.integer("num_hidden_layers");
  c.num_heads = s.integer("num_attention_heads");
  c.num_kv_heads = s.integer("num_key_value_heads");
  c.vocab_size = s.integer("vocab_size");
  c.max_positions = s.integer("max_position_embeddings", c.max_positions);
  c.rms_norm_eps = s.number("rms_norm_eps", c.rms_norm_eps);
  c.rope_theta = s.number("rope_theta", c.rope_theta);
  c.tie_word_embeddings = s.boolean("tie_word_embeddings", c.tie_word_embeddings);
  const bool own_width = s.has("head_dim");
  if (!own_width && c.hidden_size % c.num_heads != 0) {
    throw BadInput("{}: hidden_size {} must give an even head width over num_attention_heads {}", s.file(),
                   c.hidden_size, c.num_heads);
  }
  c.head_dim = own_width ? s.integer("head_dim") : c.hidden_size / c.num_heads;
  if (c.head_dim % 2 != 0)
    throw BadInput("{}: a head width of {} is odd; rotary positions turn pairs", s.file(), c.head_dim);
  if (c.num_heads % c.num_kv_heads != 0) {
    throw BadInput("{}: num_attention_heads {} must be a multiple of num_key_value_heads {}", s.file(), c.num_heads,
                   c.num_kv_heads);
  }
  if (s.boolean("use_sliding_window", false)) {
    throw BadInput("{}: 'use_sliding_window' is true; attention within a window is not supported, only full attention",
                   s.file());
  }
  if (s.has("rope_scaling")) {
    throw BadInput("{}: 'rope_scaling' is {}; scaled rotary positions are not supported, only 'rope_theta'", s.file(),
                   s.object()["rope_scaling"].dump());
  }
  if (s.has("rope_parameters")) {  // how transformers 5 writes both
    const ConfigSection rope(s.object()["rope_parameters"], s.file() + ": rope_parameters");
    if (const std::string type = rope.text("rope_type", "default"); type != "default") {
      throw BadInput("{}: 'rope_type' is \"{}\"; scaled rotary positions are not supported, only \"default\"",
                     rope.file(), type);
    }
    c.rope_theta = rope.number("rope_theta", c.rope_theta);
  }
  if (const std::string act = s.text("hidden_act", "silu"); act != "silu") {
    throw BadInput("{}: 'hidden_act' must be \"silu\", got \"{}\"", s.file(), act);
  }
  return c;
}

}  // namespace unigrpo::policy

#include <filesystem>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "policy/bagel.h"

namespace unigrpo::policy {
namespace {

using nlohmann::json;

/// Typed reads of one JSON object; errors name file and key.
class Section {
 public:
  Section(const json& object, std::string file) : object_(object), file_(std::move(file)) {
    if (!object.is_object()) throw BadInput("{}: expected a JSON object", file_);
  }
  int64_t integer(const char* key, std::optional<int64_t> fallback = std::nullopt) const {
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
  double number(const char* key, double fallback) const {
    if (!object_.contains(key)) return fallback;
    if (!object_[key].is_number()) throw BadInput("{}: '{}' must be a number, got {}", file_, key, object_[key].dump());
    return object_[key].get<double>();
  }
  bool boolean(const char* key, bool fallback) const {
    if (!object_.contains(key)) return fallback;
    if (!object_[key].is_boolean()) throw BadInput("{}: '{}' must be true or false", file_, key);
    return object_[key].get<bool>();
  }
  const json& object() const { return object_; }
  const std::string& file() const { return file_; }

 private:
  const json& object_;
  std::string file_;
};

json read_json(const std::filesystem::path& path) {
  return io::parse_json(io::read_text_file(path, size_t{16} << 20), path.string());
}

MotConfig read_llm(const Section& s) {
  MotConfig c;
  c.hidden_size = s.integer("hidden_size");
  c.intermediate_size = s.integer("intermediate_size");
  c.num_layers = s.integer("num_hidden_layers");
  c.num_heads = s.integer("num_attention_heads");
  c.num_kv_heads = s.integer("num_key_value_heads");
  c.vocab_size = s.integer("vocab_size");
  c.rms_norm_eps = s.number("rms_norm_eps", 1e-6);
  c.rope_theta = s.number("rope_theta", 1e6);
  c.tie_word_embeddings = s.boolean("tie_word_embeddings", false);
  if (c.hidden_size % c.num_heads != 0 || c.head_dim() % 2 != 0) {
    throw BadInput("{}: hidden_size {} must give an even head width over num_attention_heads {}", s.file(),
                   c.hidden_size, c.num_heads);
  }
  if (c.num_heads % c.num_kv_heads != 0) {
    throw BadInput("{}: num_attention_heads {} must be a multiple of num_key_value_heads {}", s.file(), c.num_heads,
                   c.num_kv_heads);
  }
  return c;
}

VisionConfig read_vit(const Section& s) {
  VisionConfig c;
  c.hidden_size = s.integer("hidden_size");
  c.intermediate_size = s.integer("intermediate_size");
  c.num_layers = s.integer("num_hidden_layers") - 1;  // the official rule: the last layer is not used
  c.num_heads = s.integer("num_attention_heads");
  c.num_channels = s.integer("num_channels", 3);
  c.patch_size = s.integer("patch_size");
  c.image_size = s.integer("image_size");
  c.layer_norm_eps = s.number("layer_norm_eps", 1e-6);
  return c;
}

AutoencoderConfig read_vae(const Section& s) {
  AutoencoderConfig c;
  c.in_channels = s.integer("in_channels", c.in_channels);
  c.ch = s.integer("ch", c.ch);
  c.out_ch = s.integer("out_ch", c.out_ch);
  if (s.object().contains("ch_mult")) {
    const json& list = s.object()["ch_mult"];
    if (!list.is_array() || list.empty() || list.size() > 8) throw BadInput("{}: 'ch_mult' must be a list of integers", s.file());
    c.ch_mult.clear();
    for (const json& value : list) {
      if (!value.is_number_integer() || value.get<int64_t>() < 1) {
        throw BadInput("{}: 'ch_mult' must be a list of positive integers, got {}", s.file(), list.dump());
      }
      c.ch_mult.push_back(value.get<int64_t>());
    }
  }
  c.num_res_blocks = s.integer("num_res_blocks", c.num_res_blocks);
  c.z_channels = s.integer("z_channels", c.z_channels);
  c.scale_factor = s.number("scale_factor", c.scale_factor);
  c.shift_factor = s.number("shift_factor", c.shift_factor);
  if (c.ch % 32 != 0) throw BadInput("{}: vae_config.ch must be a multiple of 32 (group norm), got {}", s.file(), c.ch);
  return c;
}

}  // namespace

BagelConfig read_bagel_config(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) {
    throw BadInput("{}: not a model folder (expected a folder with config.json)", folder.string());
  }
  const std::string name = (folder / "config.json").string();
  const json root = read_json(folder / "config.json");
  const Section section(root, name);
  const json llm = read_json(folder / "llm_config.json"), vit = read_json(folder / "vit_config.json");
  BagelConfig c;
  c.llm = read_llm(Section(llm, (folder / "llm_config.json").string()));
  c.vit = read_vit(Section(vit, (folder / "vit_config.json").string()));
  if (root.contains("vae_config")) c.vae = read_vae(Section(root["vae_config"], name + ": vae_config"));
  c.latent_patch_size = section.integer("latent_patch_size", c.latent_patch_size);
  c.max_latent_size = section.integer("max_latent_size", c.max_latent_size);
  c.vit_max_patches_per_side = section.integer("vit_max_num_patch_per_side", c.vit_max_patches_per_side);
  c.timestep_shift = section.number("timestep_shift", 1.0);
  return c;
}

}  // namespace unigrpo::policy

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "policy/bagel.h"
#include "policy/config_section.h"
#include "policy/family.h"

namespace unigrpo::policy {
namespace {

using nlohmann::json;

/// What llm_config.json does not say.
const MotConfig kLanguageModel = {
    .rope_theta = 1e6, .prefix = "language_model.", .generation_expert = true, .qk_norm = true};

VisionConfig read_vit(const ConfigSection& s) {
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

AutoencoderConfig read_vae(const ConfigSection& s) {
  AutoencoderConfig c;
  c.in_channels = s.integer("in_channels", c.in_channels);
  c.ch = s.integer("ch", c.ch);
  c.out_ch = s.integer("out_ch", c.out_ch);
  if (s.object().contains("ch_mult")) {
    const json& list = s.object()["ch_mult"];
    if (!list.is_array() || list.empty() || list.size() > 8)
      throw BadInput("{}: 'ch_mult' must be a list of integers", s.file());
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
  if (const Family family = family_of(folder); family != Family::bagel) {
    throw BadInput("{}: a {} model; this needs a BAGEL folder", folder.string(), enum_name(family));
  }
  const std::string name = (folder / "config.json").string();
  const json root = read_config_file(folder / "config.json");
  const ConfigSection section(root, name);
  const json llm = read_config_file(folder / "llm_config.json"), vit = read_config_file(folder / "vit_config.json");
  BagelConfig c;
  c.llm = read_mot_config(ConfigSection(llm, (folder / "llm_config.json").string()), kLanguageModel);
  c.vit = read_vit(ConfigSection(vit, (folder / "vit_config.json").string()));
  if (root.contains("vae_config")) c.vae = read_vae(ConfigSection(root["vae_config"], name + ": vae_config"));
  c.latent_patch_size = section.integer("latent_patch_size", c.latent_patch_size);
  c.max_latent_size = section.integer("max_latent_size", c.max_latent_size);
  c.vit_max_patches_per_side = section.integer("vit_max_num_patch_per_side", c.vit_max_patches_per_side);
  c.timestep_shift = section.number("timestep_shift", 1.0);
  return c;
}

}  // namespace unigrpo::policy

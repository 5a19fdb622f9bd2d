#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "policy/bagel/bagel.h"
#include "policy/family.h"

namespace unigrpo::policy {
namespace {

using nlohmann::json;

/// What llm_config.json does not say.
const MotConfig kLanguageModel = {
    .rope_theta = 1e6, .prefix = "language_model.", .generation_expert = true, .qk_norm = true};

/// How the code published with BAGEL samples it: the largest square, the shift 3.0, and, where the model writes a plan
/// first, this prompt (inferencer.py of ByteDance-Seed/Bagel: image_shapes, timestep_shift, GEN_THINK_SYSTEM_PROMPT).
constexpr std::string_view kPlanPrompt =
    "You should first think about the planning process in the mind and then generate the image. \n"
    "The planning process is enclosed within <think> </think> tags, i.e. <think> planning process here </think> image "
    "here";

VisionConfig read_vit(const io::JsonSection& s) {
  VisionConfig c;
  c.encoder.hidden_size = s.integer("hidden_size");
  c.encoder.intermediate_size = s.integer("intermediate_size");
  c.encoder.num_layers = s.integer("num_hidden_layers") - 1;  // the official rule: the last layer is not used
  c.encoder.num_heads = s.integer("num_attention_heads");
  c.num_channels = s.integer("num_channels", 3);
  c.patch_size = s.integer("patch_size");
  c.image_size = s.integer("image_size");
  c.encoder.layer_norm_eps = s.number("layer_norm_eps", c.encoder.layer_norm_eps);
  return c;
}

AutoencoderConfig read_vae(const io::JsonSection& s) {
  AutoencoderConfig c;
  c.in_channels = s.integer("in_channels", c.in_channels);
  c.ch = s.integer("ch", c.ch);
  c.out_ch = s.integer("out_ch", c.out_ch);
  if (s.has("ch_mult")) {
    const json& list = s.at("ch_mult");
    if (!list.is_array() || list.empty() || list.size() > 8)
      throw BadInput("{}: 'ch_mult' must be a list of integers", s.where());
    c.ch_mult.clear();
    for (const json& value : list) {
      if (!value.is_number_integer() || value.get<int64_t>() < 1) {
        throw BadInput("{}: 'ch_mult' must be a list of positive integers, got {}", s.where(), list.dump());
      }
      c.ch_mult.push_back(value.get<int64_t>());
    }
  }
  c.num_res_blocks = s.integer("num_res_blocks", c.num_res_blocks);
  c.z_channels = s.integer("z_channels", c.z_channels);
  c.scale_factor = s.number("scale_factor", c.scale_factor);
  c.shift_factor = s.number("shift_factor", c.shift_factor);
  if (c.ch % 32 != 0)
    throw BadInput("{}: vae_config.ch must be a multiple of 32 (group norm), got {}", s.where(), c.ch);
  return c;
}

}  // namespace

BagelConfig read_bagel_config(const std::filesystem::path& folder) {
  require_family(folder, "bagel");
  const auto root = io::JsonSection::open(folder / "config.json");
  BagelConfig c;
  c.llm = read_mot_config(io::JsonSection::open(folder / "llm_config.json"), kLanguageModel);
  c.vit = read_vit(io::JsonSection::open(folder / "vit_config.json"));
  c.vae = read_vae(root.section("vae_config"));
  c.latent_patch_size = root.integer("latent_patch_size", c.latent_patch_size);
  c.max_latent_size = root.integer("max_latent_size", c.max_latent_size);
  c.vit_max_patches_per_side = root.integer("vit_max_num_patch_per_side", c.vit_max_patches_per_side);
  c.timestep_shift = root.number("timestep_shift", 1.0);
  return c;
}

SamplingDefaults Bagel::sampling_defaults(const std::filesystem::path& folder) {
  const auto root = io::JsonSection::open(folder / "config.json");
  BagelConfig c;
  c.vae = read_vae(root.section("vae_config"));
  c.latent_patch_size = root.integer("latent_patch_size", c.latent_patch_size);
  c.max_latent_size = root.integer("max_latent_size", c.max_latent_size);
  return {.image_size = c.max_latent_size * c.pixels_per_token(), .timestep_shift = 3.0, .plan_prompt = kPlanPrompt};
}

}  // namespace unigrpo::policy

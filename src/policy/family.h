#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include "policy/mot_config.h"
#include "tensor/named_tensor.h"

namespace unigrpo {
struct Runtime;
}

namespace unigrpo::policy {

class UnifiedPolicy;
struct Family;
struct PolicyConfig;

/// What a folder's config files say, without its weights.
struct ModelSizes {
  /// How pixels become tokens, in a family that generates images.
  struct Images {
    int64_t pixels_per_latent = 0;  // side of a latent token
    int64_t pixels_per_patch = 0;   // side of a token that the vision tower sees
    int64_t max_vision_side = 0;    // pixels; larger images are made smaller for the tower
  };

  const Family* family = nullptr;
  MotConfig llm;
  std::optional<Images> images;
  NamedTensors shapes;  // every weight by its official name, meta tensors; `autoencoder.` before ae.safetensors'
};

/// How a folder's model is sampled where its generation_config.json does not say.
struct SamplingDefaults {
  int64_t image_size = 64;
  double timestep_shift = 1.0;
  std::string_view plan_prompt = "";  // system prompt of an episode in which a text leads to an image
};

/// A kind of model folders that load: a folder of src/policy/, and a row of the table in family.cpp.
struct Family {
  std::string_view name;          // `model_type` in config.json
  std::string_view folder;        // in words: "a Qwen2.5 folder"
  std::string_view architecture;  // in `architectures`, where there is no model_type; empty: none
  std::string_view marker;        // a file beside a config.json that has neither; empty: none
  const char* weights_file;       // the single file that weights come in; nullptr: its halves' folders have them
  bool generates_images;          // not text alone
  bool generates_clips = false;   // and nothing else
  /// See load().
  std::unique_ptr<UnifiedPolicy> (*load)(const PolicyConfig& config, const Runtime& runtime);
  /// See policy::read_sizes().
  ModelSizes (*read_sizes)(const std::filesystem::path& folder);
  SamplingDefaults (*sampling_defaults)(const std::filesystem::path& folder);
};

/// The family of diffusers folders, which have a model_index.json and no config.json.
inline constexpr std::string_view kLtx2 = "ltx2";

/// Which family config.json of a model folder names: by `model_type`, else `architectures`, else the marker beside it.
/// Throws BadInput naming file and key for any other, and for a folder without config.json.
const Family& family_of(const std::filesystem::path& folder);

/// Throws BadInput unless the folder is one of the family of this name.
void require_family(const std::filesystem::path& folder, std::string_view name);

}  // namespace unigrpo::policy

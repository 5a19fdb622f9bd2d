#pragma once

#include <array>
#include <cstdint>
#include <filesystem>

#include "nn/encoder.h"

namespace unigrpo::scorers {

/// What older configs say in place of the tokenizer's end token; see ClipModel::text_features.
inline constexpr int64_t kLegacyEosTokenId = 2;

/// Defaults here and below are those of transformers, for keys that a file leaves out.
struct ClipConfig {
  nn::EncoderConfig text{.hidden_size = 512,
                         .intermediate_size = 2048,
                         .num_layers = 12,
                         .num_heads = 8,
                         .activation = nn::Activation::quick_gelu};
  nn::EncoderConfig vision{.hidden_size = 768,
                           .intermediate_size = 3072,
                           .num_layers = 12,
                           .num_heads = 12,
                           .activation = nn::Activation::quick_gelu};
  int64_t vocab_size = 49408;
  int64_t max_positions = 77;    // tokens of a text, start and end token included
  int64_t eos_token_id = 49407;  // or kLegacyEosTokenId
  int64_t image_size = 224;      // pixels, square
  int64_t patch_size = 32;
  int64_t projection_dim = 512;  // P, width of the embeddings
};

/// Reads `config.json` of a CLIPModel. Throws BadInput naming file and key, also for another model_type or activation.
ClipConfig read_clip_config(const std::filesystem::path& folder);

/// How images become pixel values: shortest side to `shortest_edge` (bicubic), middle square of `crop_size`, then
/// (byte * rescale_factor - mean) / std.
struct ClipImageConfig {
  int64_t shortest_edge = 224;
  int64_t crop_size = 224;
  double rescale_factor = 1.0 / 255;
  std::array<double, 3> mean = {0.48145466, 0.4578275, 0.40821073};
  std::array<double, 3> std = {0.26862954, 0.26130258, 0.27577711};
};

/// Reads `preprocessor_config.json`. Throws BadInput naming file and key, also for steps left out, another filter, or a
/// crop that is not `image_size`.
ClipImageConfig read_clip_image_config(const std::filesystem::path& folder, int64_t image_size);

}  // namespace unigrpo::scorers

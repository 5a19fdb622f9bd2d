#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "io/json_section.h"

namespace unigrpo::policy {

/// Sizes of the language model (Qwen2's keys), and what tells the families apart.
struct MotConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;  // hidden_size / num_heads, unless the config says otherwise
  int64_t vocab_size = 0;
  int64_t max_positions = 32768;
  double rms_norm_eps = 1e-6;
  double rope_theta = 1e6;
  bool tie_word_embeddings = false;
  std::string prefix = {};         // of every tensor's name
  bool generation_expert = false;  // a second set of weights, `_moe_gen`, for latent tokens
  bool qk_norm = false;            // RMS norm over each head of queries and keys
};

/// A second copy of tied embeddings, which some tools save: readers pass it over and writers leave it out.
inline bool is_tied_copy(const MotConfig& config, std::string_view name) {
  return config.tie_word_embeddings && name == config.prefix + "lm_head.weight";
}

/// Reads them; `family` says what the file does not, and the values of keys that it may leave out. Throws BadInput
/// naming file and key, also for what the layers do not compute: sliding windows, scaled rotary positions, another
/// activation.
MotConfig read_mot_config(const io::JsonSection& section, const MotConfig& family);

}  // namespace unigrpo::policy

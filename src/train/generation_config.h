#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "rollout/config.h"

namespace unigrpo::train {

/// generation_config.json of a model folder: how the model is meant to be sampled. Keys that are absent or null have
/// the family's defaults (policy/family.h), else these. Of other tools' keys do_sample, max_new_tokens, top_k, top_p
/// and min_p act.
struct GenerationConfig {
  std::vector<data::SegmentKind> episode = {data::SegmentKind::text, data::SegmentKind::image};
  int64_t image_size = 64;
  int64_t num_steps = 25;
  double timestep_shift = 1.0;
  int64_t max_tokens = 512;
  double temperature = 1.0;
  bool greedy = false;      // do_sample = false: the likeliest token, whatever the temperature
  rollout::Truncation cut;  // top_k, top_p, min_p; acts where tokens are drawn
  flow::GuidanceConfig guidance;
  rollout::ClipConfig clip = {};  // with an av segment
  std::string system_prompt;

  // Of the file, not of how it is sampled.
  bool prompt_given = false;               // it has a system_prompt, maybe an empty one
  std::vector<std::string> left_out = {};  // other tools' settings that would act there and do not here, "key = value"
  std::vector<int64_t> end_tokens = {};    // its eos_token_id
};

/// Throws BadInput naming file and key; a folder without the file gives the defaults. The default episode of a model
/// that writes text only is ["text"].
GenerationConfig read_generation_config(const std::filesystem::path& model_folder);
/// The same from a file that lies elsewhere, such as beside an adapter.
GenerationConfig read_generation_config(const std::filesystem::path& model_folder, const std::filesystem::path& file);

/// The same for a policy that is trained, which draws from all tokens: what would leave some out is noted as left out.
void draw_from_all(GenerationConfig& config);

/// Throws BadInput `where: key ...` for a value out of range.
void check_ranges(const GenerationConfig& config, const std::string& where);

/// The system prompt that the family samples this episode with where nothing else is said; empty: none.
std::string default_prompt(const std::filesystem::path& model_folder, const std::vector<data::SegmentKind>& episode);

/// One line about the settings of other tools that do not act here; empty where there are none. eos_id: what ends a
/// text.
std::string told_left_out(const GenerationConfig& config, int64_t eos_id);

std::string to_json(const GenerationConfig& config);
/// The same with the keys of other tools that `model_folder`'s own file has.
std::string to_json(const GenerationConfig& config, const std::filesystem::path& model_folder);
/// The same on one line.
std::string to_line(const GenerationConfig& config);

/// The rollout settings that sample and eval run with: no SDE, one evaluation a step.
rollout::RolloutConfig to_rollout_config(const GenerationConfig& config);

}  // namespace unigrpo::train

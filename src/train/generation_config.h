#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "rollout/config.h"

namespace unigrpo::train {

/// generation_config.json of a model folder: how the model is meant to be sampled. Keys that are absent keep these
/// defaults; keys of other tools are passed over.
struct GenerationConfig {
  std::vector<data::SegmentKind> episode = {data::SegmentKind::text, data::SegmentKind::image};
  int64_t image_size = 64;
  int64_t num_steps = 25;
  double timestep_shift = 1.0;
  int64_t max_tokens = 512;
  double temperature = 1.0;
  flow::GuidanceConfig guidance;
  std::string system_prompt;
};

/// Throws BadInput naming file and key; a folder without the file gives the defaults. The default program of a model
/// that writes text only is ["text"].
GenerationConfig read_generation_config(const std::filesystem::path& model_folder);
std::string to_json(const GenerationConfig& config);
/// The same with the keys of other tools that `model_folder`'s own file has.
std::string to_json(const GenerationConfig& config, const std::filesystem::path& model_folder);

/// The rollout settings that sample and eval run with: no SDE, one evaluation a step.
rollout::RolloutConfig to_rollout_config(const GenerationConfig& config);

}  // namespace unigrpo::train

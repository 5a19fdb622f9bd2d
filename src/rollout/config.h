#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/segment_kind.h"
#include "flow/config.h"

namespace unigrpo {

namespace rollout {

struct RolloutConfig {  // recipe: [rollout]
  std::vector<data::SegmentKind> episode = {data::SegmentKind::text, data::SegmentKind::image};
  int64_t num_steps = 10;  // denoising steps of an image
  double timestep_shift = 1.0;
  int64_t image_size = 64;  // pixels, square
  int64_t max_tokens = 48;  // a text segment, the end token included
  double temperature = 1.0;
  std::string system_prompt;       // text block before every prompt; empty = the model folder's own
  int64_t token_budget = 16384;    // tokens that one rollout batch may hold at once
  double rollout_cfg_scale = 1.0;  // ablation only: guidance in the rollout; 1 = none
  flow::SdeConfig sde;
  flow::WindowConfig window;
};

}  // namespace rollout

}  // namespace unigrpo

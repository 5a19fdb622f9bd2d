#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"
#include "reward/config.h"

namespace unigrpo {

namespace monitor {

struct MonitorConfig {        // recipe: [monitor]
  int64_t sample_every = 20;  // steps between sample grids; 0 = never
  int64_t num_samples = 8;    // samples a grid
  bool tensorboard = true;
  bool report = true;            // report.html at the end
  int64_t eval_every = 0;        // steps between evaluations; 0 = only before and after
  std::string eval_prompts;      // prompt file; empty = no evaluation
  reward::RewardKind eval_reward = reward::RewardKind::geneval;  // the judge of eval_prompts, whatever is trained on
  int64_t eval_samples = 1;      // samples a prompt
  int64_t eval_max_prompts = 0;  // 0 = all
  double eval_guidance = 0.0;    // above 1: before and after are also scored with this guidance
};

}  // namespace monitor

}  // namespace unigrpo

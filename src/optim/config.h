#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo::optim {

UNIGRPO_ENUM(Schedule, constant, linear, cosine);
UNIGRPO_ENUM(OnNonfinite, skip, stop);

struct GroupConfig {    // recipe: [[optim.groups]]; the first pattern that fits wins
  std::string pattern;  // of parameter names, * and ?
  double lr = 0;
  double weight_decay = -1;  // -1 = optim.weight_decay
};

struct EmaConfig {  // recipe: [optim.ema]
  bool enabled = true;
  double decay = 0.95;
};

struct OptimConfig {  // recipe: [optim]
  double lr = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;
  int64_t warmup_steps = 0;
  Schedule schedule = Schedule::constant;  // after warm-up, to 0 at the last of its steps
  int64_t schedule_steps = 0;              // its length; 0 = run.num_steps as the run began
  double max_grad_norm = 1.0;              // 0 = no clipping
  OnNonfinite on_nonfinite = OnNonfinite::skip;
  int64_t max_skipped = 5;  // skipped steps in a row before the run stops
  std::vector<GroupConfig> groups;
  EmaConfig ema;
};

}  // namespace unigrpo::optim

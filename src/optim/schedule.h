#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "optim/config.h"

namespace unigrpo::optim {

/// What multiplies every learning rate at `step` (from 0) of `num_steps`, in [0, 1].
///
///   warm-up   (step + 1) / warmup_steps                 while step < warmup_steps
///   then, with p = (step - warmup_steps) / (num_steps - warmup_steps) up to 1:
///   constant  1        linear  1 - p        cosine  (1 + cos(pi p)) / 2
inline double lr_factor(const OptimConfig& config, int64_t step, int64_t num_steps) {
  if (step < config.warmup_steps) {
    return static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  }
  const int64_t length = std::max<int64_t>(1, num_steps - config.warmup_steps);
  const double progress = std::min(1.0, static_cast<double>(step - config.warmup_steps) / static_cast<double>(length));
  switch (config.schedule) {
    case Schedule::constant:
      return 1.0;
    case Schedule::linear:
      return 1.0 - progress;
    case Schedule::cosine:
      return 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  }
  return 1.0;
}

}  // namespace unigrpo::optim

#pragma once

#include <cstdint>
#include <string>

#include "recipe/recipe.h"

namespace unigrpo::train {

/// What a step computes, and the shape of the matrix products that it mostly is.
struct StepWork {
  double decode_flops = 0;  // of texts, token by token
  double other_flops = 0;   // of the rollout besides
  double update_flops = 0;
  double drift_samples = 0;            // of the drift monitor, on average over steps
  int64_t width = 1, inner_width = 1;  // of the language model
  bool bf16 = false;
};

struct StepTime {
  double rollout = 0, update = 0, drift = 0;  // seconds a step, the last on average over steps
  std::string how = {};                       // in words: what was measured
};

/// The time of a step on this machine, rewards and evaluation aside, within about ten seconds.
///
/// Where a prompt's share is small, as many prompts as there are threads are sampled and learned from, on weights that
/// are then thrown away, and the rest of the step is taken to be as fast. Where it is large, matrix products of the
/// model's shape are timed: what a step needs at least. Throws BadInput as training does.
StepTime step_time(const recipe::Recipe& recipe, const StepWork& work);

}  // namespace unigrpo::train

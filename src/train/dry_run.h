#pragma once

#include <cstdint>
#include <string>

#include "recipe/recipe.h"

namespace unigrpo::train {

/// What a dry run is asked about.
struct Machine {
  int64_t num_gpus = 0;   // 0: none, this machine's memory is what counts
  double gpu_gib = 80;    // of each
  double memory_gib = 0;  // without GPUs; 0: this machine's
  bool measure = false;   // without GPUs: run a little of a step to tell its time (train/step_time.h)
};

/// `unigrpo train --dry-run`: parameters by part, tokens and FLOPs of a step, and the memory of a rank, with what does
/// not fit. Reads the recipe, the model's config files and, where there are weights, their headers; no tensor is
/// loaded but for the measurement, where it is asked for. Estimates, not measurements: activations count what a layer
/// keeps for its backward pass, FLOPs count two per weight and token and four per query, key and channel of attention.
///
/// Throws BadInput for a folder whose headers do not fit its config.
std::string dry_run(const recipe::Recipe& recipe, const Machine& machine);

}  // namespace unigrpo::train

#pragma once

#include <cstdint>
#include <string>

#include "recipe/recipe.h"

namespace unigrpo::train {

/// What a dry run is asked about.
struct Machine {
  int64_t num_gpus = 0;     // a rank each; 0: none, this machine's memory is what counts
  double gpu_gib = 80;      // of each
  int64_t num_ranks = 1;    // without GPUs: processes,
  int64_t local_ranks = 1;  // and how many of them share this machine
  double memory_gib = 0;    // without GPUs; 0: this machine's
  bool measure = false;     // without GPUs, one process: run a little of a step to tell its time (train/step_time.h)

  int64_t ranks() const { return num_gpus > 0 ? num_gpus : num_ranks; }
  int64_t ranks_here() const { return num_gpus > 0 ? 1 : local_ranks; }
};

/// `unigrpo train --dry-run`: parameters by part, tokens and FLOPs of a step, the memory of a rank that shares
/// the model as [parallel] says, with what does not fit, and the bytes that it sends. Reads the recipe, the model's
/// config files and, where there are weights, their headers; no tensor is loaded but for the measurement, where it is
/// asked for. Estimates, not measurements: activations count what a layer keeps for its backward pass, FLOPs count two
/// per weight and token and four per query, key and channel of attention.
///
/// Throws BadInput for a folder whose headers do not fit its config, and for ranks that [parallel] does not divide.
std::string dry_run(const recipe::Recipe& recipe, const Machine& machine);

}  // namespace unigrpo::train

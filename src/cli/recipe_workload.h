#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "planner/model_shape.h"
#include "planner/phases.h"

namespace unigrpo::cli {

/// What a recipe's update asks of a machine.
struct Workload {
  std::filesystem::path model;  // folder
  planner::SampleShape sample;
  int64_t batch = 1;      // samples of an optimizer step
  int64_t lora_rank = 0;  // 0: all weights are trained
  int64_t minibatches = 1;
  /// The tasks of a step, from a step on until the next: shares that change by a schedule change their samples.
  struct Rollout {
    int64_t step = 0;
    std::vector<planner::RolloutShape> tasks;
  };
  std::vector<Rollout> rollouts;  // that of the first step at least
};

/// A sample: its longest text, and the trained states of its image, 16 x 16 pixels a token; of several tasks the mean
/// over the first step's samples.
Workload recipe_workload(const std::string& file, const std::vector<std::string>& overrides);

/// Share of a layer's parameters that gets gradients: of adapters r (in + out) a weight matrix.
double trainable_share(const Workload& workload, const planner::ModelShape& shape);

}  // namespace unigrpo::cli

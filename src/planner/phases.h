#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "planner/cluster.h"
#include "planner/model_shape.h"
#include "planner/waves.h"

namespace unigrpo::planner {

/// What an RL step makes before its update, and what a rank's device reaches.
struct RolloutShape {
  int64_t samples = 0;       // of a step
  int64_t text_tokens = 0;   // a sample, decoded one by one
  int64_t image_tokens = 0;  // of a latent; 0: no image
  int64_t denoise_steps = 0;
  double reward_ms = 0;       // of a judge on one rank, a sample; 0: judged elsewhere
  double tflops = 400;        // that products reach
  double memory_gbps = 3000;  // that reading weights reaches
  bool half = true;
};

/// The step's modules (decode, denoise, reward, in chunks that follow each other) as one graph on the cluster's ranks:
/// waves put chunks of different modules next to each other on disjoint ranks where that pays.
struct PhasePlan {
  struct Phase {
    std::string name;
    double alone_ms = 0;  // on all ranks, nothing beside it
  };
  std::vector<Phase> phases;
  double colocated_ms = 0;  // one module after the other, each on all ranks
  WaveSchedule waves;
  std::vector<MetaOp> ops;
  double rollout_ms() const { return std::min(colocated_ms, waves.milliseconds); }
};

PhasePlan plan_phases(const ModelShape& shape, const RolloutShape& rollout, const Cluster& cluster);

}  // namespace unigrpo::planner

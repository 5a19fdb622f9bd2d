#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "planner/cluster.h"
#include "planner/model_shape.h"
#include "planner/waves.h"

namespace unigrpo::planner {

/// What a task has in an RL step, and what a rank's device reaches.
struct RolloutShape {
  std::string task = {};      // in its modules' names; empty: the step has one
  int64_t samples = 0;        // of a step
  int64_t prompts = 0;        // of a step, each read once
  int64_t prompt_tokens = 0;  // of a prompt; 0: not counted
  int64_t text_tokens = 0;    // a sample, decoded one by one
  int64_t image_tokens = 0;   // of a latent; 0: no image
  int64_t denoise_steps = 0;
  double reward_ms = 0;                      // of a judge on one rank, a sample; 0: judged elsewhere
  int64_t minibatches = 1;                   // optimizer steps, over disjoint groups in their order
  std::map<int64_t, double> update_ms = {};  // of one optimizer step, by ranks; empty: not counted
  double tflops = 400;                       // that products reach
  double memory_gbps = 3000;                 // that reading weights reaches
  bool half = true;
};

/// The step's modules (prefill, decode, denoise, reward, update) as one graph on the cluster's ranks. Samples come in
/// chunks that follow each other through the modules; an optimizer step needs the rewards of its own groups and the
/// step before. Waves put different modules next to each other on disjoint ranks where that pays; a rollout beside an
/// update goes on with the weights that it began with.
struct PhasePlan {
  struct Phase {
    std::string name;
    double alone_ms = 0;  // on all ranks, nothing beside it
  };
  std::vector<Phase> phases;
  double colocated_ms = 0;  // one module after the other, each on its best number of ranks
  WaveSchedule waves;
  std::vector<MetaOp> ops;
  bool in_waves() const { return waves.milliseconds < colocated_ms * (1 - 1e-9) && !waves.waves.empty(); }
  double step_ms() const { return in_waves() ? waves.milliseconds : colocated_ms; }
};

/// Several tasks share the update, whose steps need groups of all of them: that of the first task is taken. Throws
/// BadInput where it has no time at any number of ranks of the cluster.
PhasePlan plan_phases(const ModelShape& shape, std::span<const RolloutShape> tasks, const Cluster& cluster);
inline PhasePlan plan_phases(const ModelShape& shape, const RolloutShape& rollout, const Cluster& cluster) {
  return plan_phases(shape, std::span(&rollout, 1), cluster);
}

}  // namespace unigrpo::planner

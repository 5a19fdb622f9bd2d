#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo::planner {

/// By which clock a cut is judged: Galvatron's formula, or the schedule played by events.
UNIGRPO_ENUM(PartitionCost, galvatron, events);

/// A chain of layers to be cut into stages, embeddings and head being part of the first and the last.
struct PartitionProblem {
  struct Layer {
    double forward_ms = 0, backward_ms = 0, sync_ms = 0;  // of a micro-batch; sync once a step
    double weights_mb = 0, activation_mb = 0;             // activation of a micro-batch
  };
  std::vector<Layer> layers;
  Layer embed, head;
  int64_t stages = 1, micro_batches = 1;
  double budget_mb = 0, p2p_ms = 0;
  PartitionCost cost = PartitionCost::events;
};

/// First layers of the stages 1 .. S - 1, rising.
using Boundaries = std::vector<int64_t>;

struct Partition {
  Boundaries boundaries;
  double step_ms = 0;
};

/// Memory of the fullest stage: stage s holds its weights and min(m, S - s) micro-batches' activations.
double partition_mb(const PartitionProblem& problem, const Boundaries& boundaries);
double partition_ms(const PartitionProblem& problem, const Boundaries& boundaries);

/// The quickest cut that fits, of all; the first of equals. Nothing where none fits. Depth first with a bound, so that
/// it is quick up to some millions of cuts.
std::optional<Partition> best_partition(const PartitionProblem& problem);

/// Least over all cuts of the fullest stage, MB.
double least_partition_mb(const PartitionProblem& problem);

/// Galvatron's step of k micro-batches: C a stage's time without, W with gradient sync (Galvatron, core/cost_model).
double galvatron_step(const std::vector<double>& without_sync, const std::vector<double>& with_sync, int64_t k);

}  // namespace unigrpo::planner

#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "planner/cluster.h"
#include "planner/flexible_sequence.h"
#include "planner/model_shape.h"
#include "planner/profile_folder.h"

namespace unigrpo::planner {

/// How sequences are trained, in forward passes of the model.
struct SequenceWork {
  int64_t ranks = 1;
  std::vector<int64_t> degrees = {1};  // that groups may have
  int64_t tokens_per_rank = 1;         // that its memory holds
  bool half = true;                    // bf16
  double passes = 3;                   // a backward pass counts twice
  double exchanges = 2;                // forward and backward passes, each with exchanges in every layer
  double gathers = 0;                  // of all weights, a micro-batch; a sum of all gradients counts once
};

/// What groups cost with the fixed part of their exchanges apart, which no SequenceCost has.
struct SequenceCosts {
  SequenceCost cost;
  std::map<int64_t, double> exchange_ms;  // by degree, a micro-batch, however few its tokens

  /// For a micro-batch of so many tokens: the fixed part of a degree is spread over the tokens that a group of it has
  /// when they are dealt evenly, or its memory is full. `least_tokens_per_rank`: memory that there is in any case.
  SequenceCost of(int64_t tokens, int64_t ranks, int64_t least_tokens_per_rank) const;
};

/// By counting operations and bytes, for ranks whose products reach `tflops`, and a cluster's figures.
SequenceCosts counted_costs(const ModelShape& shape, const Cluster& cluster, double tflops, const SequenceWork& work);

/// By a profile: with three or more lengths a parabola, with fewer the counted share of attention. Throws BadInput
/// naming the file and the key that is missing.
SequenceCosts profiled_costs(const ProfileFolder& folder, const ModelShape& shape, const SequenceWork& work);

}  // namespace unigrpo::planner

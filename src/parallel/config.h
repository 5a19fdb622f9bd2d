#pragma once

#include <cstdint>
#include <string>

#include "base/enum_names.h"

namespace unigrpo::parallel {

UNIGRPO_ENUM(Backend, UNIGRPO_SPELLED(automatic, "auto"), gloo, nccl);
/// What of a model a rank holds a share of alone, the rest being whole on all: nothing; the optimizer's state;
/// gradients too; weights too. Each level is ZeRO's of that number, 0 to 3 (Rajbhandari et al., arXiv 1910.02054).
UNIGRPO_ENUM(Shard, none, optimizer, gradients, weights);
/// When gradients are summed over ranks: after each micro-batch, or once after the last one of an optimizer step.
UNIGRPO_ENUM(Reduce, each, last);

/// How ranks with slices of a model generate: with whole weights, joined once a phase, or with the slices as they are.
UNIGRPO_ENUM(RolloutWeights, gather, tp);

struct ParallelConfig {  // recipe: [parallel]
  Backend backend = Backend::automatic;
  Shard shard = Shard::none;
  int64_t shard_ranks = 0;  // that share; 0: all
  Reduce reduce = Reduce::each;
  bool exact_reduction = false;
  int64_t tp = 1;  // ranks that share the products of each layer
  int64_t sp = 1;  // such sets that share the tokens of each training sequence
  RolloutWeights rollout = RolloutWeights::gather;
  std::string plan = {};               // a file that says both layer by layer; empty: alike for all
  int64_t reward_ranks = 0;            // the last ranks, which draw nothing and judge what the others draw
  bool flexible_sp = false;            // sp is chosen anew for each micro-batch, by the lengths of its sequences
  std::string profile = {};            // a folder of `unigrpo profile` with what that costs; empty: counted
  int64_t meeting_timeout_s = 300;     // until all ranks have met
  int64_t first_step_timeout_s = 300;  // of a call among ranks, up to the end of the first step
  int64_t step_timeout_s = 120;        // of one in a later step
  int64_t save_timeout_s = 600;        // of one while a checkpoint or a model is written
};

}  // namespace unigrpo::parallel

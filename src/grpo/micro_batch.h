#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "grpo/minibatch_loss.h"
#include "grpo/pack.h"
#include "grpo/recompute.h"
#include "grpo/update.h"
#include "grpo/update_stats.h"
#include "rollout/trajectory.h"
#include "tensor/device.h"

/// What an update does with a micro-batch, whoever runs it.
namespace unigrpo::grpo {

/// What all micro-batches of an update share.
struct Batch {
  const UpdateSetup& setup;
  std::span<const rollout::Trajectory> trajectories;
  uint64_t weights_version;
  int64_t workers;
};

/// Numbers of micro-batches, which may still be on their way: losses to be summed, differences whose largest counts.
struct Numbers {
  tensor::Readings losses, differences;

  void read_into(UpdateStats& sums, UpdateStats& largest);
};

PackedBatch pack_for(const UpdateSetup& setup, std::span<const rollout::Trajectory> trajectories,
                     std::span<const int64_t> rows);

/// The loss of a micro-batch, to start backward from. now: of the policy that is trained. Throws as
/// require_same_fingerprint does. Fault point: update.loss.
at::Tensor loss_of(const Batch& batch, const MinibatchLoss& minibatch, const PackedBatch& packed, const Recomputed& now,
                   const Recomputed& reference, Numbers& numbers);

}  // namespace unigrpo::grpo

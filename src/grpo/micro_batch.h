#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>

#include "grpo/minibatch_loss.h"
#include "grpo/pack.h"
#include "grpo/recompute.h"
#include "grpo/update.h"
#include "grpo/update_stats.h"
#include "policy/policy.h"
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

/// What the policy is compared with: a frozen copy of it, or, while this lives, itself without its adapters.
class Reference {
 public:
  explicit Reference(const UpdateSetup& setup) : policy(of(setup)) {
    if (!setup.reference) off_.emplace(setup.policy);
  }
  /// Its adapters as they are: what a pass is made over.
  static policy::UnifiedPolicy& of(const UpdateSetup& setup) {
    return setup.reference ? *setup.reference : setup.policy;
  }

  policy::UnifiedPolicy& policy;

 private:
  std::optional<policy::AdaptersOff> off_;
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

#include "grpo/micro_batch.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/fault.h"

namespace unigrpo::grpo {

using rollout::Trajectory;

void Numbers::read_into(UpdateStats& sums, UpdateStats& largest) {
  for (const auto& [name, value] : losses.read()) sums[name] += value;
  for (const auto& [name, value] : differences.read()) {
    double& most = largest[name];
    most = std::max(most, value);
  }
}

PackedBatch pack_for(const UpdateSetup& setup, std::span<const Trajectory> trajectories,
                     std::span<const int64_t> rows) {
  PackedBatch packed =
      pack(setup.policy, trajectories, rows, setup.config.image.context_gradient == ContextGradient::detached,
           setup.rollout.rollout_cfg_scale != 1.0);
  packed.batch.update = static_cast<uint64_t>(setup.optimizer.num_updates());
  return packed;
}

at::Tensor loss_of(const Batch& batch, const MinibatchLoss& minibatch, const PackedBatch& packed, const Recomputed& now,
                   const Recomputed& reference, Numbers& numbers) {
  const UpdateSetup& setup = batch.setup;
  require_same_fingerprint(setup.policy, setup.rollout, batch.trajectories, packed, now, batch.weights_version);
  note_log_prob_diff(packed, now, numbers.differences);
  at::Tensor loss = minibatch.loss(packed, now, reference, numbers.losses);
  if (!loss.defined()) return loss;
  if (const auto bad = fault::effect("update.loss").bad) loss = loss * *bad;
  // A loss that is no number makes gradients that are none, which a bound on the way back would wipe away.
  return loss * (loss.detach() * 0 + 1);
}

}  // namespace unigrpo::grpo

#pragma once

#include <cstdint>
#include <span>

#include "grpo/micro_batch.h"
#include "grpo/minibatch_loss.h"
#include "grpo/update.h"
#include "tensor/device.h"

/// The update where ranks have a stage of the layers each (parallel.plan): a micro-batch goes forward through the
/// stages, its loss is that of the last one, and gradients go back.
namespace unigrpo::grpo {

/// Leaves the mini-batch's gradients of the own stage in the parameters. All ranks together; those with one place in
/// their stages hold the same trajectories. Numbers are added on ranks of the last stage alone. False: a stop came,
/// which is asked for before the first micro-batch and after the last.
bool through_stages(const Batch& batch, const MinibatchLoss& minibatch, const Minibatch& part, UpdateStats& stats,
                    UpdateStats& differences);

/// On the last stage notes how far the training forward of these rows is from the rollout (note_log_prob_diff).
void compare_through_stages(const UpdateSetup& setup, std::span<const rollout::Trajectory> trajectories,
                            std::span<const int64_t> rows, tensor::Readings& differences);

}  // namespace unigrpo::grpo

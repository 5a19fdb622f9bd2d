#pragma once

#include <cstdint>
#include <optional>

#include "base/conflict.h"
#include "grpo/config.h"
#include "rollout/config.h"

namespace unigrpo::grpo {

/// Optimizer steps of one rollout batch: mini-batches hold whole groups, so there are no more than prompts.
int64_t num_updates(const GrpoConfig& config, int64_t num_prompts);

/// What is wrong with [grpo] for such rollouts.
std::optional<Conflict> validate(const GrpoConfig& config, const rollout::RolloutConfig& rollout);
/// Whether the weights leave anything to train.
std::optional<Conflict> validate_weights(const GrpoConfig& config, const rollout::RolloutConfig& rollout);

}  // namespace unigrpo::grpo

#pragma once

#include <optional>

#include "base/conflict.h"
#include "grpo/config.h"
#include "rollout/config.h"

namespace unigrpo::grpo {

/// What is wrong with [grpo] for such rollouts.
std::optional<Conflict> validate(const GrpoConfig& config, const rollout::RolloutConfig& rollout);
/// Whether the weights leave anything to train.
std::optional<Conflict> validate_weights(const GrpoConfig& config, const rollout::RolloutConfig& rollout);

}  // namespace unigrpo::grpo

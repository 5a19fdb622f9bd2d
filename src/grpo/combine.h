#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "grpo/config.h"
#include "reward/score.h"

namespace unigrpo::grpo {

/// One reward a sample: sum_k weight_k score_k. Empty where any term that counts (weight not 0) has
/// no score or one that is not finite: a number is never made up from the rest.
///
/// Throws std::invalid_argument where a row has another number of scores than there are terms.
std::vector<std::optional<double>> combined_rewards(const reward::ScoreTable& table);

}  // namespace unigrpo::grpo

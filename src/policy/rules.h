#pragma once

#include <optional>

#include "base/conflict.h"
#include "policy/config.h"

namespace unigrpo::policy {

/// What is wrong with [policy], as far as no model is needed to see it.
std::optional<Conflict> validate(const PolicyConfig& config);

}  // namespace unigrpo::policy

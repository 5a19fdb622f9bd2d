#pragma once

#include <string>
#include <vector>

#include "policy/config.h"
#include "tensor/named_tensor.h"

namespace unigrpo::policy {

/// Whether a name is one of those that policy.freeze or policy.lora.targets means.
bool matches_any(const std::vector<std::string>& patterns, const std::string& name);

/// Throws BadInput for a pattern of one's own policy.freeze that fits no parameter that an earlier one left. The
/// default list, which no family fits whole, may have such. A pair's names fit with their half's prefix and without.
void check_freeze(const PolicyConfig& config, const NamedTensors& parameters);

/// The same for policy.lora.targets and the weights that may have adapters; earlier patterns take nothing away.
void check_targets(const PolicyConfig& config, const NamedTensors& linears);

}  // namespace unigrpo::policy

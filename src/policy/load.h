#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "policy/config.h"
#include "policy/family.h"
#include "policy/patterns.h"
#include "policy/policy.h"
#include "runtime/runtime.h"

namespace unigrpo::policy {

/// Opens the model folder `config.model` of whichever family its config.json names (see Bagel::load, Qwen2::load,
/// Paired::load), whose freeze patterns all fit. Adapters are keyed by `runtime.seed`. Throws BadInput naming file and
/// key, tensor or token.
inline std::unique_ptr<UnifiedPolicy> load(const PolicyConfig& config, const Runtime& runtime) {
  auto policy = family_of(config.model).load(config, runtime);
  check_freeze(config, policy->parameters());
  return policy;
}

/// Throws BadInput naming file and key, and for a pair of models, which has no one set of sizes.
inline ModelSizes read_sizes(const std::filesystem::path& folder) { return family_of(folder).read_sizes(folder); }

}  // namespace unigrpo::policy

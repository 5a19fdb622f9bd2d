#pragma once

#include <memory>
#include <string>

#include "policy/policy.h"

namespace unigrpo::cli {

/// A model folder for sampling, with a PEFT adapter folder on top where `adapter` is not empty. dtype: of the weights, by its
/// name in recipes. Throws BadInput for a name that is none.
std::unique_ptr<policy::UnifiedPolicy> load_model(const std::string& folder, const std::string& adapter, const std::string& dtype);

}  // namespace unigrpo::cli

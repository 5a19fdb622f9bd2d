#pragma once

#include <memory>
#include <string>

#include "policy/bagel.h"

namespace unigrpo::cli {

/// A model folder for sampling, in float32, with a PEFT adapter folder on top where `adapter` is not empty.
std::unique_ptr<policy::Bagel> load_model(const std::string& folder, const std::string& adapter);

}  // namespace unigrpo::cli

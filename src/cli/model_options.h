#pragma once

#include <memory>

#include "cli/model_commands.h"
#include "policy/policy.h"
#include "train/generation_config.h"

namespace unigrpo::cli {

/// The model folder's generation_config.json, with what the options say instead. Throws as read_generation_config does.
train::GenerationConfig generation_of(const ModelOptions& options);

/// The model with the adapter on top where there is one, all weights frozen. Throws BadInput for a dtype that is none,
/// and as policy::load does.
std::unique_ptr<policy::UnifiedPolicy> load_model(const ModelOptions& options);

}  // namespace unigrpo::cli

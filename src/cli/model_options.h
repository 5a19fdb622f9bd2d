#pragma once

#include <cstdint>
#include <memory>

#include "cli/model_commands.h"
#include "parallel/world.h"
#include "policy/policy.h"
#include "runtime/runtime.h"
#include "train/generation_config.h"

namespace unigrpo::cli {

/// How the model is sampled: generation_config.json of the adapter's folder, else the model's, with what the options
/// say instead, and the family's prompt where neither names one. Throws as read_generation_config does.
train::GenerationConfig generation_of(const ModelOptions& options);

/// The model with the adapter on top where there is one, all weights frozen. Throws BadInput for a dtype that is none,
/// and as policy::load does.
std::unique_ptr<policy::UnifiedPolicy> load_model(const ModelOptions& options, const Runtime& runtime);

/// On the device of the options, or this rank's of them; signals only ask to stop from here on. Throws BadInput naming
/// --device.
Runtime runtime_of(const ModelOptions& options, uint64_t seed, const parallel::World& world);

/// One line with the settings that are used, and a warning about those of the file that are not.
void tell_settings(const train::GenerationConfig& generation, int64_t eos_id);

}  // namespace unigrpo::cli

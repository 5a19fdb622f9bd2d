#pragma once

#include <string>
#include <vector>

#include "checkpoint/export_model.h"
#include "checkpoint/resume.h"
#include "optim/parameters.h"
#include "policy/config.h"
#include "policy/policy.h"

namespace unigrpo::checkpoint {

/// The weights of a run's model as a part of its checkpoint has them: trained ones in their parameters' types, adapters
/// merged, frozen ones as the model holds them, made from what the source has. `model` says names, shapes and types
/// alone and may be on the meta device; `trained`: its parameters that the run trained. Throws BadInput as
/// optim::assign does.
std::vector<LazyWeight> checkpoint_weights(const policy::UnifiedPolicy& model, const optim::NamedParameters& trained,
                                           const policy::LoraConfig& lora, const MappedTensors& part,
                                           const std::string& where);

}  // namespace unigrpo::checkpoint

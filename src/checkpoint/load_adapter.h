#pragma once

#include <filesystem>
#include <memory>

#include "policy/config.h"
#include "policy/policy.h"
#include "runtime/runtime.h"

namespace unigrpo::checkpoint {

/// The model of `config` with the PEFT adapter of `folder` on top: of the language model's layers beside the weights,
/// of any other matrix (embeddings, lm_head) added into it. Whatever the adapter's file holds of the base is compared
/// with the model. Throws BadInput naming file and tensor: as read_peft and policy::load do, for a module that the
/// model does not have, and where the two bases differ.
std::unique_ptr<policy::UnifiedPolicy> load_with_adapter(policy::PolicyConfig config,
                                                         const std::filesystem::path& folder, const Runtime& runtime);

}  // namespace unigrpo::checkpoint

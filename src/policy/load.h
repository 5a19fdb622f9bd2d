#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

#include "policy/bagel.h"
#include "policy/config.h"
#include "policy/family.h"
#include "policy/policy.h"

namespace unigrpo::policy {

/// Opens the model folder `config.model` of whichever family its config.json names (see Bagel::load, Qwen2::load,
/// Paired::load). Adapters are keyed by `seed`. Throws BadInput naming file and key, tensor or token.
std::unique_ptr<UnifiedPolicy> load(const PolicyConfig& config, uint64_t seed);

/// What a folder's config files say, without its weights.
struct ModelSizes {
  Family family = Family::bagel;
  MotConfig llm;
  std::optional<BagelConfig> bagel;  // where the family draws
  NamedTensors shapes;  // every weight by its official name, meta tensors; `autoencoder.` before ae.safetensors'
};

/// Throws BadInput naming file and key, and for a pair of models, which has no one set of sizes.
ModelSizes read_sizes(const std::filesystem::path& folder);

}  // namespace unigrpo::policy

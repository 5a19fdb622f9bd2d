#include "policy/rules.h"

namespace unigrpo::policy {

std::optional<Conflict> validate(const PolicyConfig& config) {
  const bool own_list = !config.freeze.empty() && config.freeze != PolicyConfig().freeze;
  if (config.train == TrainMode::full || !own_list) return {};
  return Conflict{{"policy.freeze", "policy.train"},
                  "expected no list of your own with policy.train = \"lora\": all weights stay as they are, and "
                  "policy.lora.targets says which get adapters"};
}

}  // namespace unigrpo::policy

#include "policy/patterns.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "policy/paired/paired.h"

namespace unigrpo::policy {
namespace {

bool fits(const std::string& pattern, std::string_view name) {
  if (matches_pattern(name, pattern)) return true;
  for (const std::string_view half : {kTextPrefix, kImagePrefix}) {
    if (name.starts_with(half) && matches_pattern(name.substr(half.size()), pattern)) return true;
  }
  return false;
}

}  // namespace

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
  return std::ranges::any_of(patterns, [&](const std::string& pattern) { return matches_pattern(name, pattern); });
}

void check_freeze(const PolicyConfig& config, const NamedTensors& parameters) {
  if (config.train == TrainMode::lora || config.freeze == PolicyConfig().freeze) return;
  std::vector<bool> taken(parameters.size(), false);
  for (const std::string& pattern : config.freeze) {
    bool any = false, left = false;
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (!fits(pattern, parameters[i].name)) continue;
      any = true;
      left = left || !taken[i];
      taken[i] = true;
    }
    if (left) continue;
    throw BadInput("policy.freeze: '{}' fits no parameter of {}{}", pattern, config.model,
                   any ? " that an earlier pattern left" : "");
  }
}

void check_targets(const PolicyConfig& config, const NamedTensors& linears) {
  const auto fitting = [&](const std::string& pattern) {
    return std::ranges::any_of(linears, [&](const NamedTensor& weight) { return fits(pattern, weight.name); });
  };
  const auto& targets = config.lora.targets;
  if (std::ranges::none_of(targets, fitting)) {
    throw BadInput("policy.lora.targets: no weight of the model matches [{}]", join(targets, ", "));
  }
  if (targets == LoraConfig().targets) return;
  for (const std::string& pattern : targets) {
    if (!fitting(pattern)) throw BadInput("policy.lora.targets: '{}' fits no weight of {}", pattern, config.model);
  }
}

}  // namespace unigrpo::policy

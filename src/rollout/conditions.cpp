#include "rollout/conditions.h"

#include <bit>
#include <utility>

#include "rollout/trajectory.h"

namespace unigrpo::rollout {
namespace {

uint64_t add(double value, uint64_t hash) { return fnv1a64(std::bit_cast<uint64_t>(value), hash); }
uint64_t add(int64_t value, uint64_t hash) { return fnv1a64(static_cast<uint64_t>(value), hash); }

Conditions of_policy(const policy::ContextDigest& context, const policy::UnifiedPolicy& policy) {
  Conditions conditions;
  conditions.context = context;
  conditions.weights_version = policy.weights_version();
  conditions.adapter_state = policy.adapter_state();
  return conditions;
}

}  // namespace

Conditions conditions_of(const policy::ContextDigest& context, const TextSegment& segment, const RolloutConfig& config,
                         const policy::UnifiedPolicy& policy) {
  Conditions conditions = of_policy(context, policy);
  conditions.actions = kFnvStart;
  for (const int64_t id : segment.ids) conditions.actions = add(id, conditions.actions);
  conditions.sampling = add(config.temperature, kFnvStart);
  return conditions;
}

Conditions conditions_of(const policy::ContextDigest& context, const ImageSegment& segment, const RolloutConfig& config,
                         const policy::UnifiedPolicy& policy) {
  Conditions conditions = of_policy(context, policy);
  conditions.actions = policy::hash_tensor(segment.latents, kFnvStart);
  conditions.time_grid = add(segment.window.first, add(segment.window.last, kFnvStart));
  for (const double t : segment.timesteps) conditions.time_grid = add(t, conditions.time_grid);
  conditions.sampling = add(static_cast<int64_t>(config.sde.kind), kFnvStart);
  conditions.sampling = add(config.sde.noise_level, add(config.train_guidance, conditions.sampling));
  return conditions;
}

std::string first_difference(const Conditions& a, const Conditions& b) {
  const std::pair<const char*, bool> fields[] = {
      {"weights_version", a.weights_version == b.weights_version},
      {"adapter_state", a.adapter_state == b.adapter_state},
      {"token_ids", a.context.token_ids == b.context.token_ids},
      {"position_ids", a.context.position_ids == b.context.position_ids},
      {"mask", a.context.mask == b.context.mask},
      {"latents", a.context.latents == b.context.latents},
      {"pixels", a.context.pixels == b.context.pixels},
      {"time_grid", a.time_grid == b.time_grid},
      {"sampling", a.sampling == b.sampling},
      {"actions", a.actions == b.actions},
  };
  for (const auto& [name, equal] : fields) {
    if (!equal) return name;
  }
  return {};
}

}  // namespace unigrpo::rollout

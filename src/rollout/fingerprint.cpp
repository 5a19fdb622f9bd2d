#include "rollout/fingerprint.h"

#include <bit>
#include <utility>

#include "rollout/rules.h"
#include "rollout/trajectory.h"

namespace unigrpo::rollout {
namespace {

uint64_t add(double value, uint64_t hash) { return fnv1a64(std::bit_cast<uint64_t>(value), hash); }
uint64_t add(int64_t value, uint64_t hash) { return fnv1a64(static_cast<uint64_t>(value), hash); }

Fingerprint of_policy(const policy::ContextDigest& context, const policy::UnifiedPolicy& policy) {
  Fingerprint fingerprint;
  fingerprint.context = context;
  fingerprint.weights_version = policy.weights_version();
  fingerprint.adapter_state = policy.adapter_state();
  return fingerprint;
}

}  // namespace

Fingerprint fingerprint_of(const policy::ContextDigest& context, const TextSegment& segment,
                           const RolloutConfig& config, const policy::UnifiedPolicy& policy) {
  Fingerprint fingerprint = of_policy(context, policy);
  fingerprint.actions = kFnvStart;
  for (const int64_t id : segment.ids) fingerprint.actions = add(id, fingerprint.actions);
  fingerprint.sampling = add(config.temperature, kFnvStart);
  return fingerprint;
}

Fingerprint fingerprint_of(const policy::ContextDigest& context, const FlowSegment& segment,
                           const RolloutConfig& config, const policy::UnifiedPolicy& policy) {
  Fingerprint fingerprint = of_policy(context, policy);
  fingerprint.actions = kFnvStart;
  for (const FlowStream& stream : segment.streams) {
    fingerprint.actions = policy::hash_tensor(stream.latents, fingerprint.actions);
  }
  fingerprint.time_grid = add(segment.window.first, add(segment.window.last, kFnvStart));
  for (const double t : segment.timesteps) fingerprint.time_grid = add(t, fingerprint.time_grid);
  fingerprint.sampling = add(static_cast<int64_t>(config.sde.kind), kFnvStart);
  fingerprint.sampling = add(config.sde.noise_level, add(config.rollout_cfg_scale, fingerprint.sampling));
  for (const FlowStream& stream : segment.streams) {
    if (stream.window) {
      fingerprint.time_grid = add(stream.window->first, add(stream.window->last, fingerprint.time_grid));
    }
    if (const auto sde = sde_of(config, stream.modality)) {
      fingerprint.sampling = add(sde->noise_level, fingerprint.sampling);
    }
  }
  return fingerprint;
}

std::string first_difference(const Fingerprint& a, const Fingerprint& b) {
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

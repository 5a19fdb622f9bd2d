#pragma once

#include <cstdint>
#include <string>

#include "policy/policy.h"
#include "rollout/config.h"

namespace unigrpo::rollout {

struct TextSegment;
struct FlowSegment;

/// All that determined a segment's actions, as fingerprints: noted by the rollout where it happens, computed again by
/// the update from what it is about to train on. That ratios start at 1 does not prove that these are equal.
struct Fingerprint {
  policy::ContextDigest context;  // read before a flow segment; for text, its own block included
  uint64_t actions = 0;           // text: sampled ids; flow: the stored states
  uint64_t time_grid = 0;         // flow: t_0..t_N and the trained window
  uint64_t sampling = 0;          // text: temperature; flow: SDE kind, noise level, guidance
  uint64_t weights_version = 0;   // of the policy that acted
  uint64_t adapter_state = 0;     // how many adapters, on or off
};

Fingerprint fingerprint_of(const policy::ContextDigest& context, const TextSegment& segment,
                           const RolloutConfig& config, const policy::UnifiedPolicy& policy);
Fingerprint fingerprint_of(const policy::ContextDigest& context, const FlowSegment& segment,
                           const RolloutConfig& config, const policy::UnifiedPolicy& policy);

/// The first field in which the two differ, by its name above (context's fields by theirs: token_ids, position_ids,
/// mask, latents, pixels); empty where they are equal.
std::string first_difference(const Fingerprint& a, const Fingerprint& b);

}  // namespace unigrpo::rollout

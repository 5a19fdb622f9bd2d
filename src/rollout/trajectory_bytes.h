#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rollout/trajectory.h"

namespace unigrpo::rollout {

/// What outlines of these trajectories leave out and an update trains on, for a rank that has the outlines: prefixes,
/// log-probs, states and velocities, contexts, fingerprints. `weights_version`: of the policy here.
std::string to_parcel(std::span<const Trajectory> trajectories, std::span<const int64_t> rows,
                      uint64_t weights_version);

/// Makes the outlines of a parcel whole, but for final latents and pixels: an update may train on
/// them. What was sampled with the weights of `weights_version` there was so with those of `weights_version` here.
/// Throws RuntimeFailure where the bytes are cut short.
void open_parcel(std::string_view bytes, uint64_t weights_version, std::span<Trajectory> trajectories);

}  // namespace unigrpo::rollout

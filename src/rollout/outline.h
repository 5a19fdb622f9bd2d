#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "rollout/trajectory.h"

namespace unigrpo::rollout {

/// What ranks tell each other of their trajectories, so that counts, statistics and plans are made of the whole step on
/// all of them: places, segment kinds, ids of texts with their entropy, time grids and windows, and the sample without
/// pixels. An outline has no latents, no log-probs, no context and no fingerprint, and none is packed for an update.
std::string to_outline(const Trajectory& trajectory);
/// Throws RuntimeFailure where the bytes are cut short.
Trajectory from_outline(std::string_view bytes);

}  // namespace unigrpo::rollout

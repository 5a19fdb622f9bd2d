#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "policy/policy.h"
#include "rollout/config.h"
#include "rollout/trajectory.h"

namespace unigrpo::rollout {

/// One row of a denoising batch.
struct DrawRequest {
  const policy::Context* context = nullptr;
  StreamKey key;             // purpose is set here
  flow::SdeWindow window;    // empty: an ODE all the way
};

/// Walks the rows from noise to data together, one network evaluation a step (two with guidance above 1, the second
/// without any context).
std::vector<ImageSegment> draw_images(policy::ImagePolicy& policy, const RolloutConfig& config,
                                      std::span<const DrawRequest> rows, double guidance);

}  // namespace unigrpo::rollout

#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "policy/policy.h"
#include "rollout/config.h"
#include "rollout/trajectory.h"
#include "runtime/runtime.h"

namespace unigrpo::rollout {

/// One row of a denoising batch.
struct DenoiseRequest {
  const policy::Context* context = nullptr;
  const policy::Context* without_text = nullptr;   // with text guidance: without the prompt and the policy's texts
  const policy::Context* without_image = nullptr;  // with image guidance: the context's system and prompt blocks alone
  StreamKey key;                                   // purpose is set here
  flow::SdeWindow window;                          // empty: an ODE all the way
};

/// Walks images from noise to data together, on one grid, one network evaluation a step and one more for each
/// guidance that acts at that time. Empty where the runtime's stop came meanwhile, which is asked before each step.
/// Fault point: rollout.denoising_step.
std::vector<FlowSegment> denoise(policy::ImagePolicy& policy, const RolloutConfig& config,
                                 std::span<const DenoiseRequest> rows, policy::LatentGrid grid,
                                 const flow::GuidanceConfig& guidance, const Runtime& runtime);

/// The same of clips, without guidance: a video and its sound, each by its own SDE (rollout/rules.h: sde_of) with noise
/// of its own, from one evaluation a step on the policy's grid. `window` of a row is the video's; the sound's begins
/// audio_window_offset steps later.
std::vector<FlowSegment> denoise_clips(policy::UnifiedPolicy& policy, const RolloutConfig& config,
                                       std::span<const DenoiseRequest> rows, const policy::ClipShape& shape,
                                       const Runtime& runtime);

}  // namespace unigrpo::rollout

#pragma once

#include <ATen/core/Tensor.h>

#include "flow/config.h"

namespace unigrpo::flow {

/// Whether a step from time t needs the unconditional velocities at all.
bool guidance_acts(const GuidanceConfig& config, double t);

/// Velocities of one step under different contexts, [B, L, D].
struct GuidedVelocities {
  at::Tensor conditional;
  at::Tensor without_text;        // same context, the prompt left out
  at::Tensor without_image = {};  // same context, its images left out; undefined unless image_scale > 1
};

/// Classifier-free guidance with BAGEL's renormalisation, for `sample` and `eval` only: rollouts and
/// training run without it. Returns [B, L, D] in float32 (float64 for float64).
///
/// global: one norm a sample; channel: one a latent token; text_channel: one a latent token, after
/// the text guidance and before the image guidance.
/// Throws std::invalid_argument for shapes that differ, or for a velocity that the scales need and
/// that is undefined. Source: the inference code published with BAGEL (arXiv 2505.14683).
at::Tensor guide(const GuidanceConfig& config, const GuidedVelocities& velocities);

}  // namespace unigrpo::flow

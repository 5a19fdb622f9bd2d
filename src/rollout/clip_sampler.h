#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/signals.h"
#include "flow/clean_guidance.h"
#include "policy/ltx2/connectors.h"
#include "policy/ltx2/transformer.h"

namespace unigrpo::rollout {

struct ClipGuidance {
  policy::ltx2::Both<flow::CleanGuidance> streams;
  std::vector<int64_t> perturbed_blocks;  // whose self-attentions return their values
};

struct ClipRequest {
  policy::ltx2::Both<at::Tensor> noise;                    // [B, S, C_v], [B, T, C_a]
  policy::ltx2::TextContext text;                          // of B rows
  std::optional<policy::ltx2::TextContext> negative = {};  // with guidance by text
  policy::ltx2::ClipGrid grid;
  std::span<const double> sigmas;  // from 1 (or where the latents stand) down to 0
  ClipGuidance guidance = {};
  bool cross_timestep = true;
};

/// A step as it was walked.
struct ClipStep {
  int64_t index = 0;
  policy::ltx2::Both<at::Tensor> clean;    // the (guided) clean estimates
  policy::ltx2::Both<at::Tensor> latents;  // after the step
};

/// Euler steps of both streams on one grid, without gradients: up to four evaluations a step, as the scales need them.
/// Latents are float32 whatever the transformer's type. Empty where `stop` came meanwhile, which is asked before each
/// step.
std::optional<policy::ltx2::Both<at::Tensor>> sample_clips(const policy::ltx2::Transformer& transformer,
                                                           const ClipRequest& request, StopToken stop = {},
                                                           const std::function<void(const ClipStep&)>& seen = {});

}  // namespace unigrpo::rollout

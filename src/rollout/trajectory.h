#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <variant>
#include <vector>

#include "data/sample.h"
#include "flow/time_grid.h"
#include "policy/policy.h"
#include "rollout/conditions.h"

namespace unigrpo::rollout {

/// Sampled text: the actions and what they were worth to the policy that chose them.
struct TextSegment {
  std::vector<int64_t> ids;  // sampled tokens in order, the end token included where `ended`
  at::Tensor log_probs;      // [K] float32, at the sampling temperature
  at::Tensor entropy;        // [K] float32
  bool ended = false;        // false: the length limit cut it
  bool forced = false;       // given, not sampled: never trained on
  Conditions conditions = {};
};

/// A drawn image: the stochastic steps first..last-1 of the grid are its actions.
struct ImageSegment {
  policy::LatentGrid grid;
  std::vector<double> timesteps;  // t_0 = 1 .. t_N = 0
  flow::SdeWindow window;
  at::Tensor latents;       // [S + 1, L, C] float32: the states around the trained steps
  at::Tensor velocities;    // [S, L, C] float32, of the rollout's policy (with guidance where the rollout had it)
  at::Tensor log_probs;     // [S] float32, mean over latent elements
  at::Tensor final_latent;  // [L, C]
  std::vector<policy::Block> context =
      {};  // as what the finished image is read by later segments; empty where none follows
  Conditions conditions = {};
};

using Segment = std::variant<TextSegment, ImageSegment>;

/// One episode. The context of segment k is always rebuilt from the prompt and segments < k.
struct Trajectory {
  int64_t prompt_index = 0;           // in the batch, 0..P-1: the group
  int64_t sample_index = 0;           // in the group, 0..G-1
  std::vector<policy::Block> prefix;  // read before the first segment
  std::vector<Segment> segments;
  data::Sample sample;
};

}  // namespace unigrpo::rollout

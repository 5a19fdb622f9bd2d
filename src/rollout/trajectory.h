#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/sample.h"
#include "flow/time_grid.h"
#include "policy/policy.h"
#include "rollout/fingerprint.h"

namespace unigrpo::rollout {

/// Sampled text: the actions and what they were worth to the policy that chose them.
struct TextSegment {
  std::vector<int64_t> ids;     // sampled tokens in order, the end token included where `finished`
  at::Tensor log_probs;         // [K] float32, at the sampling temperature
  at::Tensor entropy;           // [K] float32
  bool finished = false;        // false: truncated by max_tokens
  bool teacher_forced = false;  // given, not sampled: never trained on
  Fingerprint fingerprint = {};

  /// Sampled tokens: what an update may train on.
  int64_t num_actions() const { return teacher_forced ? 0 : static_cast<int64_t>(ids.size()); }
};

/// The states of one modality on their way from noise to data.
struct FlowStream {
  std::string modality = "image";
  policy::LatentGrid grid = {};  // of its L tokens
  /// Its own stochastic steps, where they are not all of the segment's; none: it goes by ODE.
  std::optional<flow::SdeWindow> window = {};
  at::Tensor latents;       // [S + 1, L, D] float32: the states around the segment's trained steps
  at::Tensor velocities;    // [S, L, D] float32, of the rollout's policy (with guidance where the rollout had it)
  at::Tensor log_probs;     // [S] float32, mean over latent elements; 0 outside of its window
  at::Tensor final_latent;  // [L, D]
};

/// Latents denoised together on one time grid: its steps first..last-1, in which a stream is stochastic, are the
/// actions. An image is one stream; what is drawn jointly (a video and its sound) has one a modality.
struct FlowSegment {
  std::vector<double> timesteps;  // t_0 = 1 .. t_N = 0
  flow::SdeWindow window;
  std::vector<FlowStream> streams;
  double fps = 0;                           // of a clip's frames
  std::vector<policy::Block> context = {};  // as what later segments read it; empty where none follows
  Fingerprint fingerprint = {};

  /// Trained denoising steps, S.
  int64_t num_actions() const { return window.width(); }
  /// The steps of them in which this stream is stochastic.
  flow::SdeWindow window_of(const FlowStream& stream) const { return stream.window.value_or(window); }
  /// Tokens of one state in a sequence: those of all streams and, of an image, the two around it.
  int64_t state_tokens() const {
    int64_t tokens = streams.size() == 1 ? 2 : 0;
    for (const FlowStream& stream : streams) tokens += stream.grid.num_tokens();
    return tokens;
  }
  const FlowStream& stream() const { return streams.front(); }
  FlowStream& stream() { return streams.front(); }
};

/// One episode: its kinds in order, and two flat lists of what was acted, which packing, counts, metrics and losses
/// read. The n-th text of the episode is texts[n], its n-th image flows[n]; n is the turn. The context of a segment is
/// always rebuilt from the prompt and the segments before it.
struct Trajectory {
  bool is_outline = false;            // what another rank told of its own: see outline.h
  int64_t prompt_index = 0;           // in the batch, 0..P-1: the group
  int64_t sample_index = 0;           // in the group, 0..G-1
  int64_t task = 0;                   // of a step that has several
  std::vector<policy::Block> prefix;  // read before the first segment
  std::vector<data::SegmentKind> segments;
  std::vector<TextSegment> texts;
  std::vector<FlowSegment> flows;
  data::Sample sample;
};

}  // namespace unigrpo::rollout

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "flow/sde_step.h"
#include "policy/policy.h"
#include "rollout/trajectory.h"

namespace unigrpo::grpo {

/// Tokens that one trajectory adds to a training forward: its texts and, for each trained step, its image blocks.
int64_t training_tokens(const rollout::Trajectory& trajectory);

/// What a trajectory costs in a training forward, its prefix included: tokens, and the pairs of tokens of which one
/// sees the other.
struct TrainingSize {
  int64_t tokens = 0, prefix_tokens = 0;
  double pairs = 0, prefix_pairs = 0;
};
TrainingSize training_size(const rollout::Trajectory& trajectory);

/// Splits rows (indices into `trajectories`, in order) into micro-batches of at most `token_budget` tokens, a shared
/// prefix counted once. A row over the budget gets a micro-batch of its own, and the rows of one micro-batch are
/// of one task and its images of one size. A function of the trajectories and the budget alone.
std::vector<std::vector<int64_t>> plan_micro_batches(std::span<const rollout::Trajectory> trajectories,
                                                     std::span<const int64_t> rows, int64_t token_budget);

/// A segment of a packed trajectory, and which block of which sequence of the batch holds its actions.
template <typename Segment>
struct Placed {
  const Segment* segment = nullptr;
  int64_t row = 0;            // of the trajectories
  int64_t segment_index = 0;  // in the episode
  int64_t turn = 0;           // in the trajectory's texts, or its flows
  int64_t sequence = 0, block = 0;
};

/// All texts, and the sampled tokens of those that were not given, text by text.
struct PackedTexts {
  std::vector<Placed<rollout::TextSegment>> segments;
  at::Tensor hidden_rows;    // [sum K] rows of TrainOutput::text_hidden whose next token is an action
  at::Tensor ids;            // [sum K] those actions
  at::Tensor old_log_probs;  // [sum K]
};

/// One stream of the trained steps, R in all, segment by segment.
struct PackedStream {
  std::string modality;
  at::Tensor x, x_next, velocity_old;  // [R, L, D]
  at::Tensor old_log_probs;            // [R]
};

/// Flow segments that have trained steps, all with the same streams, and those steps.
struct PackedFlows {
  std::vector<Placed<rollout::FlowSegment>> segments;
  std::vector<PackedStream> streams;
  flow::TimeSpans times;  // [R]
};

/// One micro-batch: what the policy reads, and the actions in it, in the order of the rows.
struct PackedBatch {
  policy::TrainBatch batch;
  PackedTexts texts;
  PackedFlows flows;
};

/// `with_unconditional`: also the same noisy states under the context without text, after all others (guidance in
/// training): the prefix but for the prompt, which is its last block, and the images drawn before.
/// `trajectories` must outlive the batch. The actions' tensors lie on the policy's device, but for the times.
PackedBatch pack(const policy::UnifiedPolicy& policy, std::span<const rollout::Trajectory> trajectories,
                 std::span<const int64_t> rows, bool detach_context, bool with_unconditional);

}  // namespace unigrpo::grpo

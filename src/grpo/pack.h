#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policy/policy.h"
#include "rollout/trajectory.h"

namespace unigrpo::grpo {

/// Tokens that one trajectory adds to a training forward: its texts and, for each trained step, its image blocks.
int64_t training_tokens(const rollout::Trajectory& trajectory);

/// Splits rows (indices into `trajectories`, in order) into micro-batches of at most `token_budget` tokens, a shared
/// prefix counted once. A row over the budget gets a micro-batch of its own, and images of one micro-batch have one
/// size. A function of the trajectories and the budget alone.
std::vector<std::vector<int64_t>> plan_micro_batches(std::span<const rollout::Trajectory> trajectories,
                                                     std::span<const int64_t> rows, int64_t token_budget);

/// One micro-batch as tensors. Text rows and image steps stand in the order of `rows`, segment by segment.
struct PackedBatch {
  policy::TrainBatch batch;
  std::vector<int64_t> rows;

  // Text: one entry a text segment that was sampled.
  at::Tensor text_rows;                   // [sum K] rows of TrainOutput::text_hidden whose next token is an action
  at::Tensor text_ids;                    // [sum K] those actions
  std::vector<int64_t> text_lengths;      // K of each segment
  std::vector<int64_t> text_segment_row;  // index into `rows`
  std::vector<int64_t> text_round;        // how many texts the trajectory had before
  std::vector<bool> text_ended;
  at::Tensor text_old_log_probs;  // [sum K]
  at::Tensor text_entropy;        // [sum K]

  // Images: one row a trained denoising step; image j holds steps of rows[image_segment_row[j]].
  at::Tensor x, x_next, velocity_old;  // [R, L, C]
  at::Tensor t, t_next;                // [R] float64
  at::Tensor image_old_log_probs;      // [R]
  std::vector<int64_t> image_widths;   // S of each segment
  std::vector<int64_t> image_segment_row;
  std::vector<int64_t> image_round;  // how many images the trajectory had before
  double t_max = 1;

  // Which block of which sequence holds a segment's actions.
  struct Place {
    int64_t row = 0, segment = 0;     // trajectories[rows[row]].segments[segment]
    int64_t sequence = 0, block = 0;  // of batch
  };
  std::vector<Place> places;
};

/// `with_unconditional`: also the same noisy states under the context without text, after all others (guidance in
/// training): the prefix but for the prompt, which is its last block, and the images drawn before.
PackedBatch pack(const policy::UnifiedPolicy& policy, std::span<const rollout::Trajectory> trajectories,
                 std::span<const int64_t> rows, bool detach_context, bool with_unconditional);

}  // namespace unigrpo::grpo

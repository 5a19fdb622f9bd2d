#pragma once

#include <ATen/core/Tensor.h>

#include "grpo/config.h"
#include "grpo/surrogate.h"

namespace unigrpo::grpo {

/// Counts of the whole global batch; those of micro-batches and ranks add up.
struct ActionCounts {
  double num_actions = 0;        // masked in
  double num_nonempty_rows = 0;  // rows with at least one such action: seq_mean
  double num_rows = 0;           // all rows: fixed_length
  double sum_of_weights = 0;     // of the actions masked in; num_actions without weights

  ActionCounts& operator+=(const ActionCounts& other);
};

/// mask, weights: [B, T]; weights undefined: all 1.
ActionCounts count_actions(const at::Tensor& mask, const at::Tensor& weights = {});

/// Losses of actions [B, T] -> a scalar: sums over this micro-batch divided by global counts, so that the sum over
/// micro-batches and ranks is the global batch's value. fixed_length divides by `max_length`.
at::Tensor aggregate(Aggregation how, const at::Tensor& losses, const Actions& actions, const ActionCounts& counts,
                     int64_t max_length = 0);

/// What a batch of these counts weighs in a mean over several: what `how` divides by.
double aggregated_size(Aggregation how, const ActionCounts& counts);

/// What a denoising step from t to t_next < t weighs beside others.
double step_weight(StepWeight how, double t, double t_next);

/// The plain mean over actions, likewise a part that adds up.
at::Tensor action_mean(const at::Tensor& values, const Actions& actions, const ActionCounts& counts);

}  // namespace unigrpo::grpo

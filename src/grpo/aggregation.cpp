#include "grpo/aggregation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

#include "tensor/shape.h"

namespace unigrpo::grpo {

ActionCounts& ActionCounts::operator+=(const ActionCounts& other) {
  num_actions += other.num_actions;
  num_nonempty_rows += other.num_nonempty_rows;
  num_rows += other.num_rows;
  sum_of_weights += other.sum_of_weights;
  return *this;
}

ActionCounts count_actions(const at::Tensor& mask, const at::Tensor& weights) {
  tensor::check_shape(mask, {-1, -1}, "mask [B, T]");
  const at::Tensor kept = mask.to(at::kBool);
  const at::Tensor lengths = kept.sum(1);  // [B]
  ActionCounts counts{.num_actions = lengths.sum().item<double>(),
                      .num_nonempty_rows = lengths.gt(0).sum().item<double>(),
                      .num_rows = static_cast<double>(mask.size(0))};
  counts.sum_of_weights = counts.num_actions;
  if (weights.defined()) {
    tensor::check_shape(weights, mask.sizes(), "weights [B, T]");
    counts.sum_of_weights = weights.to(at::kDouble).masked_fill(kept.logical_not(), 0).sum().item<double>();
  }
  return counts;
}

namespace {

struct Row {
  Aggregation how;
  /// `losses` are 0 in the padding.
  at::Tensor (*reduce)(const at::Tensor& losses, const Actions& actions, const ActionCounts& counts, int64_t length);
  double (*size)(const ActionCounts& counts);
};

//   token_mean     sum_it / sum_i |o_i|, or by the sum of weights         (DAPO)
//   seq_mean       mean over rows i with |o_i| > 0 of (1 / |o_i|) sum_t   (GRPO)
//   fixed_length   sum_it / (B * max_length)                              (Dr.GRPO, 2503.20783)
constexpr Row kTable[] = {
    {Aggregation::token_mean,
     [](const at::Tensor& losses, const Actions&, const ActionCounts& counts, int64_t) {
       return losses.sum() / (counts.sum_of_weights > 0 ? counts.sum_of_weights : 1.0);
     },
     [](const ActionCounts& counts) { return counts.num_actions; }},
    {Aggregation::seq_mean,
     [](const at::Tensor& losses, const Actions& actions, const ActionCounts& counts, int64_t) {
       return (losses / actions.row_lengths).sum() / std::max(1.0, counts.num_nonempty_rows);
     },
     [](const ActionCounts& counts) { return counts.num_nonempty_rows; }},
    {Aggregation::fixed_length,
     [](const at::Tensor& losses, const Actions&, const ActionCounts& counts, int64_t max_length) {
       return losses.sum() / (std::max(1.0, counts.num_rows) * static_cast<double>(max_length));
     },
     [](const ActionCounts& counts) { return counts.num_rows; }},
};

const Row& row_of(Aggregation how) {
  for (const Row& row : kTable) {
    if (row.how == how) return row;
  }
  throw std::invalid_argument("unknown aggregation");
}

}  // namespace

at::Tensor aggregate(Aggregation how, const at::Tensor& losses, const Actions& actions, const ActionCounts& counts,
                     int64_t max_length) {
  return row_of(how).reduce(losses.masked_fill(actions.padding, 0), actions, counts, max_length);
}

double aggregated_size(Aggregation how, const ActionCounts& counts) { return row_of(how).size(counts); }

double step_weight(StepWeight how, double t, double t_next) {
  switch (how) {
    case StepWeight::uniform:
      return 1.0;
    case StepWeight::inverse_dt:
      return 1.0 / (t - t_next);
  }
  throw std::invalid_argument("unknown step weight");
}

at::Tensor action_mean(const at::Tensor& values, const Actions& actions, const ActionCounts& counts) {
  return values.to(actions.log_ratio.scalar_type()).masked_fill(actions.padding, 0).sum() /
         std::max(1.0, counts.num_actions);
}

}  // namespace unigrpo::grpo

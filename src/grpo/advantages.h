#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "grpo/config.h"
#include "reward/config.h"
#include "reward/score.h"

namespace unigrpo::grpo {

/// Advantages of one rollout batch, N samples in groups.
struct Advantages {
  std::vector<std::optional<double>> rewards;  // [N], combined; empty: no score
  std::vector<double> values;                  // [N], 0 where not kept; always finite
  std::vector<bool> keep;                      // [N], false: the sample leaves the update
  std::vector<int64_t> zero_std_group_ids;     // groups whose rewards are all alike, in order
  int64_t num_groups = 0;
  int64_t num_dropped = 0;         // samples without a score, and those dropped along with them
  int64_t num_dropped_groups = 0;  // groups that on_error or fewer than 2 scored samples removed

  int64_t num_zero_std_groups() const { return static_cast<int64_t>(zero_std_group_ids.size()); }
  /// Share of the groups that carry no signal, in 0..1.
  double zero_std_ratio() const;
};

/// A_i = (r_i - mean of its group) / (std + eps), in float64; the std is the group's, none, or that
/// of all rewards together.
///
/// A group whose rewards are all alike gets A = 0. Missing rewards (empty, or not finite) leave the
/// statistics and get 0. `group_ids` may come in any order.
/// Throws std::invalid_argument for lengths that differ.
std::vector<double> group_advantages(const AdvantageConfig& config,
                                     std::span<const std::optional<double>> rewards,
                                     std::span<const int64_t> group_ids);
std::vector<double> group_advantages(const AdvantageConfig& config,
                                     std::span<const double> rewards,
                                     std::span<const int64_t> group_ids);

/// Scores [N, K] -> advantages [N], by config.combine:
///   sum_then_normalize  the group advantage of sum_k w_k s_k
///   normalize_then_sum  sum_k w_k times the group advantage of s_k alone
/// A sample that lacks one score is left out of all terms.
std::vector<double> combined_advantages(const AdvantageConfig& config,
                                        const reward::ScoreTable& table,
                                        std::span<const int64_t> group_ids);

/// Scores -> advantages with the rules for what is missing:
/// - a sample without a score is dropped (with its whole group under on_error = drop_group);
/// - a group left with fewer than 2 samples is dropped;
/// - a group without spread has A = 0 and is kept, or leaves the batch (zero_std = drop, resample;
///   resampling is the caller's, who finds the groups in zero_std_group_ids).
/// Not clipped: config.clip is the image loss's.
Advantages compute_advantages(const AdvantageConfig& config, const reward::ScoreTable& table,
                              std::span<const int64_t> group_ids,
                              reward::OnError on_error = reward::OnError::drop_sample);

}  // namespace unigrpo::grpo

#include "grpo/advantages.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>

#include <fmt/format.h>

#include "grpo/combine.h"

namespace unigrpo::grpo {
namespace {

struct Statistics {
  int64_t count = 0;
  double mean = 0, std = 0, low = 0, high = 0;

  /// All alike, up to the rounding of a weighted sum.
  bool has_spread() const {
    return high - low > 1e-12 * std::max({1.0, std::abs(low), std::abs(high)});
  }
};

Statistics statistics_of(const std::vector<double>& values, int64_t ddof) {
  Statistics out;
  out.count = static_cast<int64_t>(values.size());
  if (values.empty()) return out;
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  out.low = *low;
  out.high = *high;
  for (const double value : values) out.mean += value / static_cast<double>(out.count);
  double squares = 0;
  for (const double value : values) squares += (value - out.mean) * (value - out.mean);
  const int64_t divisor = out.count - ddof;
  out.std = divisor > 0 ? std::sqrt(squares / static_cast<double>(divisor)) : 0;
  return out;
}

void check_lengths(size_t num_samples, std::span<const int64_t> group_ids) {
  if (num_samples != group_ids.size()) {
    throw std::invalid_argument(
        fmt::format("{} samples have {} group ids", num_samples, group_ids.size()));
  }
}

using Groups = std::map<int64_t, std::vector<size_t>>;  // group id -> its samples

Groups groups_of(std::span<const int64_t> group_ids) {
  Groups groups;
  for (size_t n = 0; n < group_ids.size(); ++n) groups[group_ids[n]].push_back(n);
  return groups;
}

bool usable(const std::optional<double>& reward) { return reward && std::isfinite(*reward); }

std::vector<double> usable_rewards(std::span<const std::optional<double>> rewards,
                                   const std::vector<size_t>& samples) {
  std::vector<double> values;
  for (const size_t n : samples) {
    if (usable(rewards[n])) values.push_back(*rewards[n]);
  }
  return values;
}

/// Sample n's score of term k where the sample has every score that counts, else empty.
std::vector<std::optional<double>> column(const reward::ScoreTable& table, size_t k,
                                          std::span<const std::optional<double>> rewards) {
  std::vector<std::optional<double>> values(rewards.size());
  for (size_t n = 0; n < rewards.size(); ++n) {
    if (rewards[n]) values[n] = table.scores[n][k].value;
  }
  return values;
}

std::vector<double> advantages_of(const AdvantageConfig& config, const reward::ScoreTable& table,
                                  std::span<const std::optional<double>> rewards,
                                  std::span<const int64_t> group_ids) {
  if (config.combine == Combine::sum_then_normalize) {
    return group_advantages(config, rewards, group_ids);
  }
  std::vector<double> sum(rewards.size(), 0.0);
  for (size_t k = 0; k < table.terms.size(); ++k) {
    if (table.weights[k] == 0) continue;
    const auto values = column(table, k, rewards);
    const std::vector<double> term =
        group_advantages(config, std::span<const std::optional<double>>(values), group_ids);
    for (size_t n = 0; n < sum.size(); ++n) sum[n] += table.weights[k] * term[n];
  }
  return sum;
}

}  // namespace

double Advantages::zero_std_ratio() const {
  return num_groups == 0 ? 0.0
                         : static_cast<double>(num_zero_std_groups()) /
                               static_cast<double>(num_groups);
}

//   group_std    A_i = (r_i - mean_g) / (std_g + eps)
//   none         A_i =  r_i - mean_g                                   (Dr.GRPO)
//   global_std   A_i = (r_i - mean_g) / (std of all rewards + eps)
std::vector<double> group_advantages(const AdvantageConfig& config,
                                     std::span<const std::optional<double>> rewards,
                                     std::span<const int64_t> group_ids) {
  check_lengths(rewards.size(), group_ids);
  std::vector<double> all;
  for (const auto& reward : rewards) {
    if (usable(reward)) all.push_back(*reward);
  }
  const double global_std = statistics_of(all, config.ddof).std;

  std::vector<double> advantages(rewards.size(), 0.0);
  for (const auto& [id, samples] : groups_of(group_ids)) {
    const Statistics group = statistics_of(usable_rewards(rewards, samples), config.ddof);
    if (!group.has_spread()) continue;  // no signal: A = 0 exactly
    double scale = 1;
    if (config.normalization == Normalization::group_std) scale = group.std + config.eps;
    if (config.normalization == Normalization::global_std) scale = global_std + config.eps;
    for (const size_t n : samples) {
      if (usable(rewards[n])) advantages[n] = (*rewards[n] - group.mean) / scale;
    }
  }
  return advantages;
}

std::vector<double> group_advantages(const AdvantageConfig& config,
                                     std::span<const double> rewards,
                                     std::span<const int64_t> group_ids) {
  const std::vector<std::optional<double>> values(rewards.begin(), rewards.end());
  return group_advantages(config, std::span<const std::optional<double>>(values), group_ids);
}

std::vector<double> combined_advantages(const AdvantageConfig& config,
                                        const reward::ScoreTable& table,
                                        std::span<const int64_t> group_ids) {
  const auto rewards = combined_rewards(table);
  check_lengths(rewards.size(), group_ids);
  return advantages_of(config, table, rewards, group_ids);
}

Advantages compute_advantages(const AdvantageConfig& config, const reward::ScoreTable& table,
                              std::span<const int64_t> group_ids, reward::OnError on_error) {
  Advantages out;
  out.rewards = combined_rewards(table);
  check_lengths(out.rewards.size(), group_ids);
  const Groups groups = groups_of(group_ids);
  out.num_groups = static_cast<int64_t>(groups.size());

  std::vector<std::optional<double>> counted = out.rewards;  // what enters the statistics
  out.keep.assign(counted.size(), false);
  for (const auto& [id, samples] : groups) {
    const std::vector<double> scored = usable_rewards(counted, samples);
    const bool incomplete = scored.size() < samples.size();
    if (scored.size() < 2 || (incomplete && on_error == reward::OnError::drop_group)) {
      for (const size_t n : samples) counted[n] = std::nullopt;
      ++out.num_dropped_groups;
    }
    for (const size_t n : samples) {
      out.keep[n] = counted[n].has_value();
      if (!out.keep[n]) ++out.num_dropped;
    }
  }
  out.values = advantages_of(config, table, counted, group_ids);

  for (const auto& [id, samples] : groups) {
    const bool any_kept = std::ranges::any_of(samples, [&](size_t n) { return out.keep[n]; });
    const bool any_signal =
        std::ranges::any_of(samples, [&](size_t n) { return out.values[n] != 0; });
    if (!any_kept || any_signal) continue;
    out.zero_std_group_ids.push_back(id);
    if (config.zero_std == ZeroStd::keep) continue;
    for (const size_t n : samples) out.keep[n] = false;
  }
  return out;
}

}  // namespace unigrpo::grpo

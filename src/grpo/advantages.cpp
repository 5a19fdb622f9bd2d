#include "grpo/advantages.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>

#include "base/statistics.h"
#include "grpo/combine.h"

namespace unigrpo::grpo {
namespace {

void check_lengths(size_t num_samples, std::span<const int64_t> group_ids) {
  if (num_samples != group_ids.size()) {
    throw std::invalid_argument(fmt::format("{} samples have {} group ids", num_samples, group_ids.size()));
  }
}

using Groups = std::map<int64_t, std::vector<size_t>>;  // group id -> its samples

Groups groups_of(std::span<const int64_t> group_ids) {
  Groups groups;
  for (size_t n = 0; n < group_ids.size(); ++n) groups[group_ids[n]].push_back(n);
  return groups;
}

bool usable(const std::optional<double>& reward) { return reward && std::isfinite(*reward); }

std::vector<double> usable_rewards(std::span<const std::optional<double>> rewards, const std::vector<size_t>& samples) {
  std::vector<double> values;
  for (const size_t n : samples) {
    if (usable(rewards[n])) values.push_back(*rewards[n]);
  }
  return values;
}

/// Sample n's score of term k where the sample has every score that counts, else empty; as it is where the prompt does
/// not ask for the term.
std::vector<std::optional<double>> scores_of(const reward::ScoreTable& table, size_t k,
                                             std::span<const std::optional<double>> rewards) {
  std::vector<std::optional<double>> values(rewards.size());
  for (size_t n = 0; n < rewards.size(); ++n) {
    if (rewards[n]) values[n] = table.scores[n][k].value;
  }
  return values;
}

using Rewards = std::span<const std::optional<double>>;

/// Rewards that are compared with each other, and how large the numbers were that each is the sum of: what is smaller
/// than the rounding of those says nothing.
struct Column {
  std::vector<std::optional<double>> rewards;  // [N]
  std::vector<double> magnitudes;              // [N]
};

Column column_of(Rewards rewards) {
  Column column{.rewards = {rewards.begin(), rewards.end()}, .magnitudes = {}};
  for (const auto& reward : rewards) column.magnitudes.push_back(usable(reward) ? std::abs(*reward) : 0);
  return column;
}

/// What rewards are held against: the mean and standard deviation of their group, of their prompt or of the whole run.
//   group_std    A_i = (r_i - mean) / (std + eps)
//   none         A_i =  r_i - mean                                     (Dr.GRPO)
//   global_std   A_i = (r_i - mean) / (std of all rewards of the batch + eps)
struct Baseline {
  const AdvantageConfig& config;
  std::span<const int64_t> group_ids;
  std::span<const std::string> prompt_ids = {};
  RunningStatistics* statistics = nullptr;  // nullptr: the groups' own, whatever config.statistics says

  /// Advantages of one column of rewards. `name` keeps the columns' running statistics apart.
  std::vector<double> advantages(const Column& column, const std::string& name) const {
    const Rewards rewards = column.rewards;
    std::vector<double> advantages(rewards.size(), 0.0);
    std::vector<double> all;
    for (const auto& reward : rewards) {
      if (usable(reward)) all.push_back(*reward);
    }
    if (all.empty()) return advantages;
    const double global_std = spread_of(all, config.ddof).std;
    std::optional<MeanAndStd> of_run;
    if (of() == StatisticsOf::running) of_run = observe("running/" + name, all);
    for (const auto& [id, samples] : groups_of(group_ids)) {
      double magnitude = 0;
      for (const size_t n : samples) magnitude = std::max(magnitude, column.magnitudes[n]);
      const std::vector<double> values = usable_rewards(rewards, samples);
      const auto against = of_run ? of_run : of_group(values, samples, magnitude, name);
      if (!against) continue;  // no signal: A = 0 exactly
      double scale = 1;
      if (config.normalization == Normalization::group_std) scale = against->std + config.eps;
      if (config.normalization == Normalization::global_std) scale = global_std + config.eps;
      for (const size_t n : samples) {
        if (!usable(rewards[n]) || scale <= 0) continue;
        if (alike(*rewards[n], against->mean, std::max(magnitude, std::abs(against->mean)))) continue;
        advantages[n] = (*rewards[n] - against->mean) / scale;
      }
    }
    return advantages;
  }

 private:
  struct MeanAndStd {
    double mean, std;
  };

  StatisticsOf of() const { return statistics == nullptr ? StatisticsOf::group : config.statistics; }

  MeanAndStd observe(const std::string& key, std::span<const double> values) const {
    const RunningStatistics::Moments moments = statistics->observe(key, values, config.decay);
    return {moments.mean, moments.std()};
  }

  /// Empty where the group has no reward or, held against itself, no spread.
  std::optional<MeanAndStd> of_group(const std::vector<double>& values, const std::vector<size_t>& samples,
                                     double magnitude, const std::string& name) const {
    if (values.empty()) return std::nullopt;
    if (of() == StatisticsOf::prompt) return observe("prompt/" + name + "/" + prompt_ids[samples.front()], values);
    const Spread group = spread_of(values, config.ddof);
    return alike(group.low, group.high, magnitude) ? std::nullopt : std::optional<MeanAndStd>({group.mean, group.std});
  }
};

/// `table` has the weights of one modality; `counted` says which samples enter.
std::vector<double> advantages_of(const Baseline& baseline, const reward::ScoreTable& table, Rewards counted,
                                  const std::string& modality) {
  if (baseline.config.combine == Combine::sum_then_normalize) {
    Column column = column_of(combined_rewards(table));
    for (size_t n = 0; n < counted.size(); ++n) {
      if (!counted[n]) column.rewards[n].reset();
      if (!usable(column.rewards[n])) continue;
      double& magnitude = column.magnitudes[n] = 0;
      for (size_t k = 0; k < table.terms.size(); ++k) {
        const std::optional<double>& value = table.scores[n][k].value;  // none: the prompt does not ask for it
        if (table.weights[k] != 0 && value) magnitude += std::abs(table.weights[k] * *value);
      }
    }
    return baseline.advantages(column, modality);
  }
  std::vector<double> sum(counted.size(), 0.0), magnitudes(counted.size(), 0.0);
  for (size_t k = 0; k < table.terms.size(); ++k) {
    if (table.weights[k] == 0) continue;
    const Column column = column_of(scores_of(table, k, counted));
    const std::vector<double> term = baseline.advantages(column, modality + "/" + table.terms[k]);
    for (size_t n = 0; n < sum.size(); ++n) {
      sum[n] += table.weights[k] * term[n];
      magnitudes[n] += std::abs(table.weights[k] * term[n]);
    }
  }
  for (size_t n = 0; n < sum.size(); ++n) {
    if (alike(sum[n], 0, magnitudes[n])) sum[n] = 0;
  }
  return sum;
}

std::vector<double> kept_values(const std::vector<double>& values, const std::vector<size_t>& samples,
                                const std::vector<bool>& keep) {
  std::vector<double> kept;
  for (const size_t n : samples) {
    if (keep[n]) kept.push_back(values[n]);
  }
  return kept;
}

/// The advantages of truncated texts: none is better than one standard deviation below its group. That is -1 where the
/// normalization has brought the group to one, else the deviation of the group's own advantages; where the group has
/// none, of the batch's, and -1 where that has none either.
std::vector<double> penalized_advantages(const AdvantageConfig& config, const Groups& groups,
                                         const std::vector<double>& text, const std::vector<bool>& keep) {
  std::vector<double> penalized = text;
  std::vector<size_t> everyone;
  for (size_t n = 0; n < text.size(); ++n) everyone.push_back(n);
  const double batch = spread_of(kept_values(text, everyone, keep), config.ddof).std;
  for (const auto& [id, samples] : groups) {
    double deviation = 1;
    if (config.normalization != Normalization::group_std) {
      const double own = spread_of(kept_values(text, samples, keep), config.ddof).std;
      deviation = own > 0 ? own : batch > 0 ? batch : 1;
    }
    for (const size_t n : samples) penalized[n] = std::min(text[n], -deviation);
  }
  return penalized;
}

/// `values` centred and divided by the standard deviation of the kept samples; `also` in the same way.
void normalize_batch(const AdvantageConfig& config, const std::vector<bool>& keep, std::vector<double>& values,
                     std::vector<double>* also = nullptr) {
  std::vector<double> kept;
  for (size_t n = 0; n < values.size(); ++n) {
    if (keep[n]) kept.push_back(values[n]);
  }
  const Spread batch = spread_of(kept, config.ddof);
  const double magnitude = std::max(std::abs(batch.low), std::abs(batch.high));
  if (alike(batch.low, batch.high, magnitude)) return;
  const double mean = alike(batch.mean, 0, magnitude) ? 0 : batch.mean;  // groups are centred already, up to rounding
  for (std::vector<double>* all : {&values, also}) {
    for (size_t n = 0; all != nullptr && n < all->size(); ++n) {
      if (keep[n]) (*all)[n] = ((*all)[n] - mean) / (batch.std + config.eps);
    }
  }
}

/// Leaves the `best` best and `worst` worst of a group's kept samples.
void keep_ends(const AdvantageConfig& config, Rewards rewards, std::vector<size_t> samples, std::vector<bool>& keep) {
  std::erase_if(samples, [&](size_t n) { return !keep[n]; });
  const auto count = static_cast<int64_t>(samples.size());
  if (count <= config.top_k + config.bottom_k) return;
  std::ranges::stable_sort(samples, [&](size_t a, size_t b) { return *rewards[a] > *rewards[b]; });
  for (int64_t i = config.top_k; i < count - config.bottom_k; ++i) keep[samples[static_cast<size_t>(i)]] = false;
}

}  // namespace

double Advantages::zero_std_ratio() const {
  return num_groups == 0 ? 0.0 : static_cast<double>(num_zero_std_groups()) / static_cast<double>(num_groups);
}

std::vector<double> group_advantages(const AdvantageConfig& config, std::span<const std::optional<double>> rewards,
                                     std::span<const int64_t> group_ids) {
  check_lengths(rewards.size(), group_ids);
  return Baseline{config, group_ids}.advantages(column_of(rewards), "");
}

std::vector<double> group_advantages(const AdvantageConfig& config, std::span<const double> rewards,
                                     std::span<const int64_t> group_ids) {
  const std::vector<std::optional<double>> values(rewards.begin(), rewards.end());
  return group_advantages(config, std::span<const std::optional<double>>(values), group_ids);
}

std::vector<double> combined_advantages(const AdvantageConfig& config, const reward::ScoreTable& table,
                                        std::span<const int64_t> group_ids) {
  const auto rewards = combined_rewards(table);
  check_lengths(rewards.size(), group_ids);
  return advantages_of({config, group_ids}, table, rewards, "");
}

Advantages compute_advantages(const AdvantageConfig& config, const reward::ScoreTable& scores,
                              std::span<const int64_t> group_ids, reward::OnError on_error,
                              std::span<const reward::TermConfig> terms, std::span<const std::string> prompt_ids,
                              const RunningStatistics& before, const std::vector<bool>& penalized,
                              std::optional<StreamAdvantage> clips) {
  Advantages out;
  out.statistics = before;
  const reward::ScoreTable table =
      terms.empty() ? scores : shaped_scores(terms, scores, config.decay, config.eps, out.statistics);
  out.rewards = combined_rewards(table);
  check_lengths(out.rewards.size(), group_ids);
  if (config.statistics == StatisticsOf::prompt) check_lengths(prompt_ids.size(), group_ids);
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
  const Baseline baseline{config, group_ids, prompt_ids, &out.statistics};
  for (std::vector<double>* none : {&out.text, &out.image, &out.video, &out.audio}) none->assign(counted.size(), 0.0);
  if (clips) {
    const bool routed = clips == StreamAdvantage::routed;
    const auto of = [&](reward::Stream stream) { return routed ? scores_for(table, stream) : table; };
    out.video = advantages_of(baseline, of(reward::Stream::video), counted, "video");
    out.audio = advantages_of(baseline, of(reward::Stream::audio), counted, "audio");
  } else {
    out.text = advantages_of(baseline, scores_for(table, reward::Modality::text), counted, "text");
    out.image = advantages_of(baseline, scores_for(table, reward::Modality::image), counted, "image");
  }

  if (!penalized.empty()) {
    check_lengths(penalized.size(), group_ids);
    out.truncated_text = penalized_advantages(config, groups, out.text, out.keep);
  }
  const auto has_signal = [&](size_t n) {
    return out.text[n] != 0 || out.image[n] != 0 || out.video[n] != 0 || out.audio[n] != 0 ||
           (!penalized.empty() && penalized[n]);
  };

  for (const auto& [id, samples] : groups) {
    const bool any_kept = std::ranges::any_of(samples, [&](size_t n) { return out.keep[n]; });
    const bool any_signal = std::ranges::any_of(samples, [&](size_t n) { return out.keep[n] && has_signal(n); });
    if (!any_kept || any_signal) continue;
    out.zero_std_group_ids.push_back(id);
    if (config.zero_std == ZeroStd::keep) continue;
    for (const size_t n : samples) out.keep[n] = false;
  }
  if (config.normalize_batch) {
    normalize_batch(config, out.keep, out.text, &out.truncated_text);
    for (std::vector<double>* of_flow : {&out.image, &out.video, &out.audio}) {
      normalize_batch(config, out.keep, *of_flow);
    }
  }
  if (config.top_k + config.bottom_k > 0) {
    for (const auto& [id, samples] : groups) keep_ends(config, out.rewards, samples, out.keep);
  }
  for (std::vector<double>* of_flow : {&out.image, &out.video, &out.audio}) clip_advantages(config.clip, *of_flow);
  return out;
}

void append(const Advantages& more, int64_t first_group, Advantages& all) {
  const auto add = [](const auto& from, auto& to) { to.insert(to.end(), from.begin(), from.end()); };
  add(more.rewards, all.rewards);
  add(more.text, all.text);
  add(more.image, all.image);
  add(more.video, all.video);
  add(more.audio, all.audio);
  add(more.truncated_text, all.truncated_text);
  add(more.keep, all.keep);
  for (const int64_t id : more.zero_std_group_ids) all.zero_std_group_ids.push_back(first_group + id);
  all.num_groups += more.num_groups;
  all.num_dropped += more.num_dropped;
  all.num_dropped_groups += more.num_dropped_groups;
}

void clip_advantages(double clip, std::vector<double>& advantages) {
  if (clip == 0) return;
  for (double& advantage : advantages) advantage = std::clamp(advantage, -clip, clip);
}

bool trains_on(Truncated rule, bool finished) { return finished || rule != Truncated::mask; }

}  // namespace unigrpo::grpo

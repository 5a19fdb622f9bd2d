#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "grpo/config.h"
#include "grpo/running_statistics.h"
#include "reward/config.h"
#include "reward/score.h"

namespace unigrpo::grpo {

/// Advantages of one rollout batch, N samples in groups.
struct Advantages {
  std::vector<std::optional<double>> rewards;  // [N], combined; empty: no score
  std::vector<double> text, image;             // [N], of a sample's texts and images, 0 where not kept; always finite
  std::vector<double> video, audio;            // [N], the same of the streams of its clips
  std::vector<double> truncated_text;          // [N], of texts that are penalized for being truncated; empty: as text
  std::vector<bool> keep;                      // [N], false: the sample leaves the update
  std::vector<int64_t> zero_std_group_ids;     // groups without signal, in order
  int64_t num_groups = 0;
  int64_t num_dropped = 0;         // samples without a score, and those dropped along with them
  int64_t num_dropped_groups = 0;  // groups that on_error or fewer than 2 scored samples removed
  RunningStatistics statistics;    // as they stand after this batch

  int64_t num_zero_std_groups() const { return static_cast<int64_t>(zero_std_group_ids.size()); }
  /// Share of the groups that carry no signal, in 0..1.
  double zero_std_ratio() const;
  /// [N], of what is denoised in this modality.
  const std::vector<double>& of_flow(std::string_view modality) const {
    return modality == "video" ? video : modality == "audio" ? audio : image;
  }
  /// Of a text of sample `n`.
  double of_text(size_t n, bool finished) const {
    return finished || truncated_text.empty() ? text[n] : truncated_text[n];
  }
};

/// A_i = (r_i - mean of its group) / (std + eps), in float64; the std is the group's, none, or that
/// of all rewards together.
///
/// A group whose rewards are all alike, up to the rounding of sums, gets A = 0. Missing rewards (empty, or not finite)
/// leave the statistics and get 0. `group_ids` may come in any order. Throws std::invalid_argument for lengths that
/// differ.
std::vector<double> group_advantages(const AdvantageConfig& config, std::span<const std::optional<double>> rewards,
                                     std::span<const int64_t> group_ids);
std::vector<double> group_advantages(const AdvantageConfig& config, std::span<const double> rewards,
                                     std::span<const int64_t> group_ids);

/// Scores [N, K] -> advantages [N], by config.combine:
///   sum_then_normalize  the group advantage of sum_k w_k s_k
///   normalize_then_sum  sum_k w_k times the group advantage of s_k alone
/// A sample that lacks one score is left out of all terms.
std::vector<double> combined_advantages(const AdvantageConfig& config, const reward::ScoreTable& table,
                                        std::span<const int64_t> group_ids);

/// Scores -> advantages with the rules for what is missing:
/// - the terms' own rules first (shaped_scores);
/// - a sample without a score is dropped (with its whole group under on_error = drop_group);
/// - a group left with fewer than 2 samples is dropped;
/// - text and image each get the group advantage of the terms that drive them; with `clips` it is the streams of clips
///   instead, by the terms that judge each (routed) or by all of them (shared);
/// - statistics = prompt / running: mean and std are the prompt's own or those of all rewards, over the run
///   (RunningStatistics, this batch included), as in the per-prompt tracker of flow_grpo;
/// - normalize_batch: the advantages are centred and divided by their std over all kept samples once more (GDPO,
///   arXiv 2601.05242);
/// - penalized (samples with a text that max_tokens truncated, [N] or empty): such texts have advantages of their own,
///   never better than one standard deviation below their group, and are a signal where the rewards are all alike;
/// - a group without signal has A = 0 and is kept, or leaves the batch (zero_std = drop, resample; resampling is the
/// caller's,
///   who finds the groups in zero_std_group_ids);
/// - top_k, bottom_k: only a group's so many best and worst by reward stay in the update, ties by place;
/// - clip: image advantages end within +-clip.
/// `terms`: [K] or empty, when no term has a rule of its own. `prompt_ids`: [N], needed for statistics = prompt.
Advantages compute_advantages(const AdvantageConfig& config, const reward::ScoreTable& table,
                              std::span<const int64_t> group_ids,
                              reward::OnError on_error = reward::OnError::drop_sample,
                              std::span<const reward::TermConfig> terms = {},
                              std::span<const std::string> prompt_ids = {}, const RunningStatistics& before = {},
                              const std::vector<bool>& penalized = {}, std::optional<StreamAdvantage> clips = {});

/// Puts those of more groups, whose ids count from `first_group`, behind `all`. The running statistics stay apart.
void append(const Advantages& more, int64_t first_group, Advantages& all);

/// To +-clip each; 0: not at all.
void clip_advantages(double clip, std::vector<double>& advantages);

/// Whether a text is trained on under the rule for those that max_tokens truncated.
bool trains_on(Truncated rule, bool finished);

}  // namespace unigrpo::grpo

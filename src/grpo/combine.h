#pragma once

#include <optional>
#include <span>
#include <vector>

#include "grpo/running_statistics.h"
#include "reward/config.h"
#include "reward/score.h"

namespace unigrpo::grpo {

/// One reward a sample: sum_k weight_k score_k. Empty where any term that counts (weight not 0) has
/// no score or one that is not finite: a number is never made up from the rest. A term that the prompt does not ask for
/// is left out of the sum; empty where it asks for none.
///
/// Throws std::invalid_argument where a row has another number of scores than there are terms.
std::vector<std::optional<double>> combined_rewards(const reward::ScoreTable& table);

/// The terms' own rules, in this order, on the scores of one step:
///   scale = running   s <- (s - m) / (d + eps), m and d the term's running mean and standard deviation, this step
///   included clip              s <- min(max(s, -clip), clip) gate              s <- 0 where the gate's score, as it
///   came from its reward, is below gate_min (the conditioned rewards of
///                     GDPO, arXiv 2601.05242); empty where the gate has none
/// Takes the step into `statistics` (keys "scale/<term>").
reward::ScoreTable shaped_scores(std::span<const reward::TermConfig> terms, const reward::ScoreTable& table,
                                 double decay, double eps, RunningStatistics& statistics);

/// The table with weight 0 for the terms that do not drive `modality` (text or image).
reward::ScoreTable scores_for(const reward::ScoreTable& table, reward::Modality modality);
/// The same for those that do not judge a stream of clips.
reward::ScoreTable scores_for(const reward::ScoreTable& table, reward::Stream stream);

}  // namespace unigrpo::grpo

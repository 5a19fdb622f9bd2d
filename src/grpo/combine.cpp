#include "grpo/combine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "base/statistics.h"

namespace unigrpo::grpo {

std::vector<std::optional<double>> combined_rewards(const reward::ScoreTable& table) {
  if (table.weights.size() != table.terms.size()) {
    throw std::invalid_argument(
        fmt::format("{} reward terms have {} weights", table.terms.size(), table.weights.size()));
  }
  std::vector<std::optional<double>> rewards;
  rewards.reserve(table.scores.size());
  for (size_t n = 0; n < table.scores.size(); ++n) {
    const auto& row = table.scores[n];
    if (row.size() != table.terms.size()) {
      throw std::invalid_argument(
          fmt::format("sample {} has {} scores for {} reward terms", n, row.size(), table.terms.size()));
    }
    double sum = 0;
    bool complete = true, asked_for_one = false, left_out = false;
    for (size_t k = 0; k < row.size(); ++k) {
      if (table.weights[k] == 0) continue;  // logged, but not part of the reward
      (row[k].asked ? asked_for_one : left_out) = true;
      if (!row[k].asked) continue;
      if (row[k].value && std::isfinite(*row[k].value)) {
        sum += table.weights[k] * *row[k].value;
      } else {
        complete = false;
      }
    }
    if (left_out && !asked_for_one) complete = false;
    rewards.push_back(complete ? std::optional(sum) : std::nullopt);
  }
  return rewards;
}

reward::ScoreTable shaped_scores(std::span<const reward::TermConfig> terms, const reward::ScoreTable& table,
                                 double decay, double eps, RunningStatistics& statistics) {
  reward::ScoreTable out = table;
  for (size_t k = 0; k < table.terms.size(); ++k) {
    const reward::TermConfig& term = terms[k];
    RunningStatistics::Moments moments{.mean = 0, .variance = 1};
    if (term.scale == reward::TermScale::running) {
      std::vector<double> values;
      for (const auto& row : table.scores) {
        if (row[k].value && std::isfinite(*row[k].value)) values.push_back(*row[k].value);
      }
      if (!values.empty()) moments = statistics.observe("scale/" + table.terms[k], values, decay);
    }
    for (auto& row : out.scores) {
      std::optional<double>& value = row[k].value;
      if (!value) continue;
      if (term.scale == reward::TermScale::running) {
        const bool same = alike(*value, moments.mean, std::max(std::abs(*value), std::abs(moments.mean)));
        *value = same ? 0 : (*value - moments.mean) / (moments.std() + eps);
      }
      if (term.clip > 0) *value = std::clamp(*value, -term.clip, term.clip);
    }
    if (term.gate.empty()) continue;
    const auto found = std::ranges::find(table.terms, term.gate);
    if (found == table.terms.end()) throw std::invalid_argument("no reward term is named '" + term.gate + "'");
    const auto gate = static_cast<size_t>(found - table.terms.begin());
    for (size_t n = 0; n < out.scores.size(); ++n) {
      reward::Score& score = out.scores[n][k];
      const std::optional<double>& passes = table.scores[n][gate].value;
      if (!table.scores[n][gate].asked) continue;
      if (!passes) {
        score.value.reset();
        score.reason = "its gate '" + term.gate + "' has no score";
      } else if (score.value && *passes < term.gate_min) {
        score.value = 0;
      }
    }
  }
  return out;
}

reward::ScoreTable scores_for(const reward::ScoreTable& table, reward::Modality modality) {
  reward::ScoreTable out = table;
  for (size_t k = 0; k < table.modality.size(); ++k) {
    if (table.modality[k] != reward::Modality::both && table.modality[k] != modality) out.weights[k] = 0;
  }
  return out;
}

reward::ScoreTable scores_for(const reward::ScoreTable& table, reward::Stream stream) {
  reward::ScoreTable out = table;
  for (size_t k = 0; k < table.streams.size(); ++k) {
    if (std::ranges::count(table.streams[k], stream) == 0) out.weights[k] = 0;
  }
  return out;
}

}  // namespace unigrpo::grpo

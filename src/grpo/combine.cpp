#include "grpo/combine.h"

#include <cmath>
#include <stdexcept>

#include <fmt/format.h>

namespace unigrpo::grpo {

std::vector<std::optional<double>> combined_rewards(const reward::ScoreTable& table) {
  if (table.weights.size() != table.terms.size()) {
    throw std::invalid_argument(fmt::format("{} reward terms have {} weights", table.terms.size(),
                                            table.weights.size()));
  }
  std::vector<std::optional<double>> rewards;
  rewards.reserve(table.scores.size());
  for (size_t n = 0; n < table.scores.size(); ++n) {
    const auto& row = table.scores[n];
    if (row.size() != table.terms.size()) {
      throw std::invalid_argument(fmt::format("sample {} has {} scores for {} reward terms", n,
                                              row.size(), table.terms.size()));
    }
    double sum = 0;
    bool complete = true;
    for (size_t k = 0; k < row.size(); ++k) {
      if (table.weights[k] == 0) continue;  // logged, but not part of the reward
      if (row[k].value && std::isfinite(*row[k].value)) {
        sum += table.weights[k] * *row[k].value;
      } else {
        complete = false;
      }
    }
    rewards.push_back(complete ? std::optional(sum) : std::nullopt);
  }
  return rewards;
}

}  // namespace unigrpo::grpo

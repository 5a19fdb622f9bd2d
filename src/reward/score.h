#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace unigrpo::reward {

/// What one reward term says of one sample. Values are expected in the term's own documented range.
struct Score {
  std::optional<double> value;  // empty: this sample has no score
  std::string reason;  // why not (goes to samples.jsonl and a counter), or a remark on the score
  std::map<std::string, double>
      parts;  // further numbers worth logging, e.g. {"strict": 1, "soft": 1}
};

/// Scores of N samples under K terms: scores[n][k].
struct ScoreTable {
  std::vector<std::string> terms;  // names, K
  std::vector<double> weights;     // K
  std::vector<std::vector<Score>> scores;
};

}  // namespace unigrpo::reward

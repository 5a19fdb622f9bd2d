#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "reward/config.h"

namespace unigrpo::reward {

/// What one reward says of one sample. Values are expected in the reward's own documented range.
struct Score {
  std::optional<double> value;          // the main number; empty: this sample has no score
  std::string reason;                   // why not (goes to samples.jsonl and a counter), or a remark on the score
  std::map<std::string, double> parts;  // named dimensions, e.g. {"strict": 1, "soft": 1}
  std::map<std::string, std::string> missing = {};  // named dimensions without a value -> why
  std::map<std::string, std::string> notes = {};    // anything else worth reading, to samples.jsonl
  /// False: the prompt does not ask for what is judged. There is no value, and none is missing.
  bool asked = true;
};

/// Scores of N samples under K terms: scores[n][k].
struct ScoreTable {
  std::vector<std::string> terms;       // names, K
  std::vector<double> weights;          // K
  std::vector<Modality> modality = {};  // K, or empty: all drive both
  std::vector<std::vector<Score>> scores;
  std::vector<std::vector<Stream>> streams = {};  // K, or empty: all judge both streams of a clip
};

}  // namespace unigrpo::reward

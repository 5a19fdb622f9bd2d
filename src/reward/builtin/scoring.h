#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "data/sample.h"
#include "reward/score.h"

/// What the built-in rewards that read a row's metadata have in common.
namespace unigrpo::reward {

/// score_one of every sample; one whose row is not as it must be (BadInput) gets no score and the reason.
template <typename ScoreOne>
std::vector<Score> score_each(std::span<const data::Sample> samples, const ScoreOne& score_one) {
  std::vector<Score> scores;
  scores.reserve(samples.size());
  for (const data::Sample& sample : samples) {
    try {
      scores.push_back(score_one(sample));
    } catch (const BadInput& error) {
      scores.push_back({.value = std::nullopt, .reason = error.what(), .parts = {}});
    }
  }
  return scores;
}

/// What `check` complains of by BadInput, empty where it does not.
template <typename Check>
std::string complaint_of(const Check& check) {
  try {
    check();
    return "";
  } catch (const BadInput& error) {
    return error.what();
  }
}

/// Whether an image has the pixels that its size promises, and some.
inline bool is_whole(const Image& image) {
  return image.width > 0 && image.height > 0 &&
         image.pixels.size() == size_t{3} * static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
}

}  // namespace unigrpo::reward

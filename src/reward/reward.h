#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/sample.h"
#include "reward/score.h"

namespace unigrpo::reward {

/// Judges finished episodes. Knows no groups, no tensors, no policy. Safe to call from one thread
/// at a time.
class Reward {
 public:
  virtual ~Reward() = default;
  /// One score a sample, in order. A sample that cannot be judged gets an empty value and a reason.
  virtual std::vector<Score> score(std::span<const data::Sample> samples) = 0;
  /// Empty when a row with this metadata can be judged, else what it lacks ("'include' is
  /// missing").
  virtual std::string missing_metadata(const std::string& metadata_json) const = 0;
};

}  // namespace unigrpo::reward

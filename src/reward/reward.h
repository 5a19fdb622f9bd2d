#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/sample.h"
#include "reward/score.h"

namespace unigrpo::reward {

/// Judges finished episodes. Knows no groups' statistics, no tensors, no policy. Called by one thread at a time, not
/// always the same one.
class Reward {
 public:
  virtual ~Reward() = default;
  /// One score a sample, in order. A sample that cannot be judged gets an empty value and a reason.
  virtual std::vector<Score> score(std::span<const data::Sample> samples) = 0;
  /// Empty when a row with this metadata can be judged, else what it lacks ("'include' is missing").
  virtual std::string missing_metadata(const std::string& /*metadata_json*/) const { return {}; }
  /// True: every call holds whole groups (samples with one `group`), for rewards that compare. Otherwise any split may
  /// come.
  virtual bool wants_groups() const { return false; }
  /// The named dimensions that its scores can have; empty where they are not known before the first score.
  virtual std::vector<std::string> dimensions() const { return {}; }
  /// Between two steps: a service that was given up on may be asked again.
  virtual void new_step() {}
};

}  // namespace unigrpo::reward

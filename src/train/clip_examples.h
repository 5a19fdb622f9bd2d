#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/prompt.h"
#include "media/clip.h"
#include "train/sft_examples.h"

namespace unigrpo::train {

/// What supervised training of clips learns from: rows of the world of picture and sound, rendered on demand. The clip
/// of a row is a function of (seed, row) alone.
class ClipExamples {
 public:
  /// `file`: rows of `unigrpo data av`. `noise`: the share of clips made imperfect on purpose (data/worlds/av_world.h).
  /// Throws BadInput `file:line` for a row of anything else.
  ClipExamples(const std::string& file, double noise, uint64_t seed);

  /// The rows of a step, in seeded order, pass after pass.
  std::vector<int64_t> batch(int64_t step, int64_t size) const;
  const std::string& prompt(int64_t row) const { return rows_[static_cast<size_t>(row)].text; }
  media::Clip clip(int64_t row) const;
  int64_t size() const { return static_cast<int64_t>(rows_.size()); }

 private:
  std::vector<data::Prompt> rows_;
  double noise_;
  uint64_t seed_;
  EpochOrder order_;
};

}  // namespace unigrpo::train

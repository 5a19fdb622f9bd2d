#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "planner/waves.h"

namespace unigrpo::planner {

/// What stays the same over a search.
struct WaveShape {
  WaveShape(const std::vector<MetaOp>& given, int64_t ranks);

  struct Size {
    int64_t ranks;
    double ms;
  };
  const std::vector<MetaOp>& ops;
  int64_t num_ranks;
  std::vector<std::vector<Size>> sizes;  // of each op, rising
  std::vector<Speed> speeds;
  std::vector<double> quickest, tail;      // ms of a layer; ms of the longest path after the op
  std::vector<std::vector<size_t>> users;  // ops that depend on it
};

using RemainingLayers = std::vector<int64_t>;  // of each op

/// No schedule of what is left is quicker: the longest path, and C* without any order.
double rest_bound(const WaveShape& shape, const RemainingLayers& left);
/// No schedule of all is quicker: longest path and ranks together, each op at the size that serves both best.
double allotment_bound(const WaveShape& shape);

/// The least sum of wave times, by looking at all waves of all states; nothing where that takes more than `most_steps`,
/// some 10 ns each.
std::optional<std::vector<Wave>> exact_waves(const WaveShape& shape, int64_t most_steps);

struct BeamEffort {
  size_t width;         // states kept a wave
  int64_t tries;        // draws of what a layer is worth
  size_t most_lengths;  // of a wave, at least 2
};
/// The best of a beam of states, each wave the best filling of the ranks for one of several lengths.
std::vector<Wave> beam_waves(const WaveShape& shape, const BeamEffort& effort);

/// Joins neighbouring waves of one allotment: their sum can only shrink.
void merge_repeats(std::vector<Wave>& waves);

/// Joins repeated allotments, moves layers between waves and plans windows of neighbouring waves anew while that helps.
void improve_waves(const WaveShape& shape, std::vector<Wave>& waves);

double total_ms(const std::vector<MetaOp>& ops, const std::vector<Wave>& waves);

}  // namespace unigrpo::planner

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "planner/waves.h"

namespace unigrpo::planner {

/// What is wrong with a schedule, by the rules of waves and its own statements; "" where nothing is.
inline std::string fault_of(const std::vector<MetaOp>& ops, int64_t ranks, const WaveSchedule& schedule) {
  std::vector<int64_t> left;
  for (const MetaOp& op : ops) left.push_back(op.layers);
  double sum = 0;
  for (const Wave& wave : schedule.waves) {
    int64_t used = 0;
    double longest = 0;
    std::vector<int64_t> after = left;
    for (const WavePiece& piece : wave) {
      for (const size_t dep : ops[piece.op].deps) {
        if (left[dep] != 0) return "runs too early";
      }
      if (after[piece.op] != left[piece.op]) return "two pieces of one in a wave";
      if (piece.layers < 1) return "a piece of no layers";
      after[piece.op] -= piece.layers;
      used += piece.ranks;
      longest = std::max(longest, static_cast<double>(piece.layers) * ops[piece.op].ms.at(piece.ranks));
    }
    left = std::move(after);
    if (used > ranks) return "too many ranks";
    sum += longest;
  }
  if (std::ranges::any_of(left, [](int64_t n) { return n != 0; })) return "layers do not add up";
  if (std::abs(sum - schedule.milliseconds) > 1e-9 * sum) return "another time than stated";
  if (schedule.lower_bound > sum * (1 + 1e-9)) return "below its bound";
  return "";
}

}  // namespace unigrpo::planner

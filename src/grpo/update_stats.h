#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace unigrpo::grpo {

/// Metrics of one update by their names in docs/METRICS.md; losses and ratios are those of the last mini-batch's
/// weights at the time each was computed, averaged over mini-batches.
using UpdateStats = std::map<std::string, double>;

/// The name of a metric of an episode's n-th text or image: later turns have a prefix.
inline std::string turn_metric(int64_t turn, const std::string& name) {
  return (turn == 0 ? "" : "turn_" + std::to_string(turn) + "/") + name;
}

}  // namespace unigrpo::grpo

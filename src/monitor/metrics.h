#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace unigrpo::monitor {

/// Everything measured in one step, by metric name (docs/METRICS.md lists them). Ordered by name.
struct StepRecord {
  int64_t step = 0;
  std::map<std::string, double> values;
};

}  // namespace unigrpo::monitor

#pragma once

#include <cstdint>
#include <string>
#include <vector>


namespace unigrpo {

namespace monitor {

struct MonitorConfig {        // recipe: [monitor]
  int64_t sample_every = 20;  // steps between sample grids; 0 = never
  int64_t num_samples = 8;    // samples a grid
  bool tensorboard = true;
  bool report = true;            // report.html at the end
};

}  // namespace monitor

}  // namespace unigrpo

#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo::monitor {

UNIGRPO_ENUM(DriftAction, warn, stop);

/// What the drift monitor measures, of data/sample_statistics.h; text_length in tokens.
inline constexpr std::array<std::string_view, 10> kDriftStatistics = {
    "brightness",    "chroma",          "dark_share",  "saturated_share", "edge_density",
    "color_entropy", "image_diversity", "text_length", "text_repetition", "text_diversity"};

struct DriftConfig {  // recipe: [monitor.drift]
  bool enabled = true;
  DriftAction action = DriftAction::warn;
  std::vector<std::string> statistics;  // of kDriftStatistics; empty = all
  int64_t prompts = 12;                 // watched, evenly spread over the prompt file
  int64_t samples = 2;                  // of each
  int64_t every = 1;                    // steps between probes
  double max_share = 0.1;               // of the rollouts' samples that probes may add; they get rarer to keep it
  double allowance = 0.4;               // standard deviations that a statistic may drift
  double threshold = 0.15;              // sum of what lies beyond, probe by probe, that raises the alarm
};

struct MonitorConfig {        // recipe: [monitor]
  int64_t sample_every = 20;  // steps between sample grids; 0 = never
  int64_t num_samples = 8;    // samples a grid
  bool tensorboard = true;
  bool report = true;  // report.html at the end
  DriftConfig drift;
};

}  // namespace unigrpo::monitor

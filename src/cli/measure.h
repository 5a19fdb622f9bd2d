#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/recipe_workload.h"
#include "planner/profile.h"
#include "planner/profile_folder.h"
#include "runtime/runtime.h"

namespace unigrpo::cli {

/// Times by what they are of, for unigrpo_profile.json, and the names of those that vary by more than a tenth.
struct Samples {
  nlohmann::json& ms;
  std::vector<std::string> noisy = {};

  /// The median of 5 repetitions after 2 to warm up. `once`: makes one, and returns its milliseconds.
  double median_of(const std::string& name, const std::function<double()>& once);
};

/// Measured among the ranks of a launch, all groups of one size at once; the slowest rank's time counts. Messages of 1
/// to `max_mb` MB (2^20 bytes), at least 8 sizes.
planner::HardwareProfile measure_links(const Runtime& runtime, int64_t max_mb, Samples& samples);

/// What is timed and held: random weights of a model's shape with one and with three layers. Attention and weights as
/// in the update: text rows by the understanding experts, the rest of a sample by those of generation.
struct ModelQuestion {
  Workload workload;
  int64_t text_tokens = 0;             // of the workload's; the others are of images
  std::vector<int64_t> batches = {1};  // at the sample's length
  std::vector<int64_t> lengths = {};   // at one sample
};
planner::MeasuredModel measure_model(const ModelQuestion& question, const Runtime& runtime, Samples& samples);

}  // namespace unigrpo::cli

#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/sample.h"
#include "monitor/samples_file.h"
#include "reward/score.h"

namespace unigrpo::train {

/// A sample with all that the terms said of it; `reward` and `advantage` are the caller's. A term's named dimensions
/// become scores
/// `<term>_<dimension>`. `terms` and `scores`: [K].
monitor::SampleRow sample_row(data::Sample sample, std::span<const std::string> terms,
                              std::span<const reward::Score> scores);

}  // namespace unigrpo::train

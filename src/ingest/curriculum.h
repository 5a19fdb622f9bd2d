#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "ingest/manifest.h"

namespace unigrpo::ingest {

inline constexpr int kNumTiers = 3;  // the last is the best

/// A part of training: on which clips, in which form, for how long.
struct CurriculumStage {
  std::vector<int> tiers;
  std::vector<std::string> streams;  // of "video", "audio"
  int64_t resolution = 0;            // of the shorter side; 0: the clip's own
  int64_t frames = 0;                // of a clip; 0: all
  int64_t steps = 0;
};

/// Of a JSON file: {"stages": [{"tiers", "streams", "resolution"?, "frames"?, "steps"}]}. Throws BadInput naming file
/// and key.
std::vector<CurriculumStage> read_curriculum(const std::filesystem::path& file);
/// Each stream alone on all tiers, both on the better two, both on the best.
std::vector<CurriculumStage> default_curriculum();

/// What a step of training takes: a function of the manifest, seed and step alone.
struct Draw {
  size_t stage = 0;
  std::vector<nlohmann::json> rows;
};
/// `count` rows of the stage that step `step` (from 0) is in: epoch after epoch of permutations of its rows. Throws
/// BadInput for a manifest of another stage, a step behind the last one, and a stage without clips.
Draw draw_rows(const Manifest& manifest, uint64_t seed, int64_t step, int64_t count);

}  // namespace unigrpo::ingest

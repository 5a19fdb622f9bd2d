#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reward/builtin/detector.h"

namespace unigrpo::reward {

/// What GenEval (Ghosh et al., arXiv 2310.11513) asks of an image.
struct GenevalScore {
  double strict = 0;   // 1 when every requirement is met
  double soft = 0;     // share of the requirements met, 0..1
  std::string reason;  // what is wrong, empty when strict is 1
};

/// Scores detections against a row's `include` / `exclude`. Throws BadInput where `metadata_json` is not in
/// GenEval's schema.
GenevalScore score_geneval(std::string_view metadata_json, std::span<const Detection> detections, int image_width,
                           int image_height);

}  // namespace unigrpo::reward

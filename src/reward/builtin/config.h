#pragma once

#include <cstdint>
#include <string>

#include "base/enum_names.h"

namespace unigrpo::reward {

UNIGRPO_ENUM(GenevalMetric, strict, soft, mixed, official);
UNIGRPO_ENUM(DetectorKind, color, http);
UNIGRPO_ENUM(JpegPrefer, large, small);

struct ObjectsConfig {                          // kinds geneval and edit
  GenevalMetric metric = GenevalMetric::mixed;  // strict, soft, their mean, or as GenEval's own evaluator
  DetectorKind detector = DetectorKind::color;

  bool operator==(const ObjectsConfig&) const = default;
};

struct TextRulesConfig {     // kind text_rules
  std::string pattern = {};  // regular expression that must be found; empty: none
  int64_t min_tokens = 0;
  int64_t max_tokens = 0;      // 0: no limit
  int64_t overlong_cache = 0;  // tokens before max_tokens in which the punishment grows

  bool operator==(const TextRulesConfig&) const = default;
};

struct JpegConfig {                       // kind jpeg
  JpegPrefer prefer = JpegPrefer::small;  // recipe: jpeg_prefer

  bool operator==(const JpegConfig&) const = default;
};

}  // namespace unigrpo::reward

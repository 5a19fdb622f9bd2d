#pragma once

#include <cstdint>

#include "base/enum_names.h"

namespace unigrpo::scorers {

UNIGRPO_ENUM(ScorerKind, clip_score, pick_score, hps, aesthetic);

struct ScorerOptions {
  int64_t batch_size = 32;  // images, or prompts, in one forward pass
};

}  // namespace unigrpo::scorers

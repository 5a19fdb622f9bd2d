#pragma once

#include <cstdint>

#include "base/enum_names.h"

namespace unigrpo {

namespace scorers {

enum class ScorerKind { clip_score, pick_score, hps, aesthetic };

struct ScorerOptions {
  int64_t batch_size = 32;  // images, or prompts, in one forward pass
};

}  // namespace scorers

template <>
struct EnumNames<scorers::ScorerKind> {
  static constexpr std::array names = {std::pair{scorers::ScorerKind::clip_score, "clip_score"},
                                       std::pair{scorers::ScorerKind::pick_score, "pick_score"},
                                       std::pair{scorers::ScorerKind::hps, "hps"},
                                       std::pair{scorers::ScorerKind::aesthetic, "aesthetic"}};
};

}  // namespace unigrpo

#pragma once

#include "base/enum_names.h"

namespace unigrpo::data {

/// What a piece of an episode is; av: a video with its sound.
UNIGRPO_ENUM(SegmentKind, text, image, av);

}  // namespace unigrpo::data

#pragma once

#include "base/enum_names.h"

namespace unigrpo::data {

/// What a piece of an episode is.
UNIGRPO_ENUM(SegmentKind, text, image);

}  // namespace unigrpo::data

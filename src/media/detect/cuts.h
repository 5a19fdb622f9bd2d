#pragma once

#include <cstdint>
#include <vector>

#include "media/clip.h"

/// Where one shot ends and the next begins, by small pictures (64 pixels are enough).
namespace unigrpo::media::detect {

/// Frames first .. first + count - 1, between cuts and without what fades to or from a plain picture.
struct Shot {
  int64_t first = 0;
  int64_t count = 0;
  bool operator==(const Shot&) const = default;
};

/// Cuts: the histogram of hue, saturation and value jumps, or nearly all edges are new, each against what is usual
/// around it (edge changes after Zabih, Miller and Mai 1995). Fades: pictures without contrast, and the slope to them.
std::vector<Shot> find_shots(const Frames& frames);

}  // namespace unigrpo::media::detect

#pragma once

#include <cstdint>
#include <span>

#include "media/clip.h"

namespace unigrpo::media {

/// The median distance of two frames in seconds, 0 for fewer than two distinct times. Times ascend.
double nominal_frame_s(std::span<const double> times);

/// Whether frame k is shown at times[0] + k / fps, each to `tolerance` seconds.
bool has_rate(std::span<const double> times, Rational fps, double tolerance);

/// The usual rate nearest to a measured one (whole numbers and those by 1001), where it is within 0.1%; else a fraction
/// of small numbers.
Rational nearest_rate(double fps);

/// How many frames of a grid k / fps begin within [0, seconds), where both ends may be off by `tolerance` seconds.
int64_t num_grid_frames(double seconds, Rational fps, double tolerance);

}  // namespace unigrpo::media

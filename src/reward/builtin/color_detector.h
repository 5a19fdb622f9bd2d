#pragma once

#include <memory>

#include "reward/builtin/detector.h"

namespace unigrpo::reward {

/// Detector for the embedded world: nearest-colour segmentation, contours, shape classification,
/// splitting of touching objects of one colour. At least 99% of exact scenes rendered by
/// data::shapes are read without error.
std::unique_ptr<Detector> make_color_detector();

}  // namespace unigrpo::reward

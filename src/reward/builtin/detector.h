#pragma once

#include <span>
#include <string>
#include <vector>

#include "io/image.h"

namespace unigrpo::reward {

/// One object found in an image; the box in pixels, right and bottom exclusive.
struct Detection {
  std::string class_name;
  std::string color;
  double confidence = 1.0;  // 0..1
  double left = 0, top = 0, right = 0, bottom = 0;

  double center_x() const { return (left + right) / 2; }
  double center_y() const { return (top + bottom) / 2; }
};

/// What was found in one image, or why that is not known.
struct Detections {
  std::vector<Detection> objects;
  std::string failure;  // empty where it is known
};

class Detector {
 public:
  virtual ~Detector() = default;
  /// Throws RuntimeFailure where the image could not be looked at.
  virtual std::vector<Detection> detect(const Image& image) = 0;
  /// The same of several images, in order, for detectors that look at many at once.
  virtual std::vector<Detections> detect_all(std::span<const Image* const> images) {
    std::vector<Detections> all;
    for (const Image* image : images) all.push_back({.objects = detect(*image), .failure = ""});
    return all;
  }
};

}  // namespace unigrpo::reward

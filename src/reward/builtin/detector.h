#pragma once

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

class Detector {
 public:
  virtual ~Detector() = default;
  virtual std::vector<Detection> detect(const Image& image) = 0;
};

}  // namespace unigrpo::reward

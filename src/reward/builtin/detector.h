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
  /// Why no object of this class and colour (empty: any) is ever found; empty where one can be.
  virtual std::string blind_to(const std::string& /*class_name*/, const std::string& /*color*/) const { return ""; }
  /// Below or at this confidence GenEval's evaluator takes an object for none; in rows tagged "counting" it is
  /// stricter.
  virtual double min_confidence(bool counting) const { return counting ? 0.9 : 0.3; }
  /// See Reward::new_step.
  virtual void new_step() {}
};

}  // namespace unigrpo::reward

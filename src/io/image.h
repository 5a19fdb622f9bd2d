#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace unigrpo {

/// 8-bit RGB image, rows top to bottom, no padding: pixels.size() == 3 * width * height.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> pixels;

  const uint8_t* at(int x, int y) const { return &pixels[3 * (static_cast<size_t>(y) * width + x)]; }
  uint8_t* at(int x, int y) { return &pixels[3 * (static_cast<size_t>(y) * width + x)]; }
  bool operator==(const Image&) const = default;
};

}  // namespace unigrpo

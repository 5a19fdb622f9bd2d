#pragma once

#include <cstdint>

#include "io/image.h"

namespace unigrpo::data {

/// How a model wants its images: the sides a model reads are multiples of `stride`.
struct ImageSizeRule {
  int64_t max_size = 1024;                  // pixels, longest side
  int64_t min_size = 512;                   // pixels, shortest side: small images grow
  int64_t stride = 16;                      // pixels
  int64_t max_pixels = 14 * 14 * 9 * 1024;  // of the whole image
};

struct ImageSize {
  int64_t width = 0, height = 0;
  bool operator==(const ImageSize&) const = default;
};

/// The size to which an image of `size` is brought: scaled so that the longest side is at most max_size, then up so
/// that the shortest is at least min_size, sides rounded to the stride (half to even), then shrunk where the pixels or
/// the longest side are over the limit. Source: MaxLongEdgeMinShortEdgeResize of the data code published with BAGEL
/// (arXiv 2505.14683).
ImageSize fit_size(ImageSize size, const ImageSizeRule& rule);

/// Bicubic (a = -0.5) with antialiasing: the arithmetic of Pillow's resize on 8-bit channels (a horizontal pass,
/// rounded to bytes, then a vertical one; kernels normalised and held in 22-bit fixed point), so the bytes are those of
/// the official preprocessing with the Pillow of its day (12 and later take the vertical pass first where that one
/// shrinks more, which changes roundings, and more where the other side grows). Throws std::invalid_argument for a size
/// below 1.
Image resize_bicubic(const Image& image, ImageSize size);

/// resize_bicubic to fit_size; the image itself where the size is right already.
Image fit_image(const Image& image, const ImageSizeRule& rule);

}  // namespace unigrpo::data

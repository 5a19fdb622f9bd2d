#include "data/image_resize.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <vector>

namespace unigrpo::data {
namespace {

constexpr int kPrecisionBits = 22;  // 32 less 8 bits of a channel and 2 of room for the kernel's overshoot
constexpr double kSupport = 2.0;    // of the bicubic kernel

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

/// Source pixels [first, first + weights.size()) of one output pixel.
struct Taps {
  int64_t first = 0;
  std::vector<int32_t> weights;  // fixed point, sum about 2^22
};

std::vector<Taps> make_taps(int64_t in, int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0);  // shrinking widens the kernel: the antialiasing
  const double support = kSupport * stretch;
  std::vector<Taps> all(static_cast<size_t>(out));
  std::vector<double> kernel;
  for (int64_t i = 0; i < out; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const auto first = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const auto last = std::min<int64_t>(static_cast<int64_t>(center + support + 0.5), in);
    kernel.clear();
    double total = 0;
    for (int64_t k = first; k < last; ++k) {
      kernel.push_back(bicubic((static_cast<double>(k) - center + 0.5) * (1.0 / stretch)));
      total += kernel.back();
    }
    Taps& taps = all[static_cast<size_t>(i)];
    taps.first = first;
    const double norm = total != 0 ? 1.0 / total : 1.0;
    for (const double weight : kernel) {
      const double fixed = weight * norm * (1 << kPrecisionBits);
      taps.weights.push_back(static_cast<int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5));
    }
  }
  return all;
}

/// One pass along an axis of `image`: `step` bytes lie between neighbours along it.
uint8_t weighted(const uint8_t* pixel, int64_t step, const Taps& taps) {
  int32_t sum = 1 << (kPrecisionBits - 1);
  for (const int32_t weight : taps.weights) {
    sum += weight * *pixel;
    pixel += step;
  }
  return static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255));
}

Image resize_width(const Image& image, int64_t width) {
  Image result{.width = static_cast<int>(width), .height = image.height, .pixels = {}};
  result.pixels.resize(static_cast<size_t>(3 * width * image.height));
  const std::vector<Taps> taps = make_taps(image.width, width);
  uint8_t* out = result.pixels.data();
  for (int y = 0; y < image.height; ++y) {
    for (const Taps& tap : taps) {
      const uint8_t* pixel = image.at(static_cast<int>(tap.first), y);
      for (int c = 0; c < 3; ++c) *out++ = weighted(pixel + c, 3, tap);
    }
  }
  return result;
}

Image resize_height(const Image& image, int64_t height) {
  Image result{.width = image.width, .height = static_cast<int>(height), .pixels = {}};
  const int64_t row = 3 * static_cast<int64_t>(image.width);
  result.pixels.resize(static_cast<size_t>(row * height));
  uint8_t* out = result.pixels.data();
  for (const Taps& tap : make_taps(image.height, height)) {
    const uint8_t* column = image.pixels.data() + tap.first * row;
    for (int64_t x = 0; x < row; ++x) *out++ = weighted(column + x, row, tap);
  }
  return result;
}

/// Python's round(): halves go to the even neighbour.
int64_t round_half_even(double value) { return static_cast<int64_t>(std::nearbyint(value)); }

ImageSize scaled(ImageSize size, double scale, int64_t stride) {
  const auto side = [&](int64_t pixels) {
    const auto target = static_cast<double>(round_half_even(static_cast<double>(pixels) * scale));
    return std::max(stride, round_half_even(target / static_cast<double>(stride)) * stride);
  };
  return {side(size.width), side(size.height)};
}

}  // namespace

ImageSize fit_size(ImageSize size, const ImageSizeRule& rule) {
  if (size.width < 1 || size.height < 1) throw std::invalid_argument("fit_size: an image without pixels");
  const auto longest = static_cast<double>(std::max(size.width, size.height));
  const auto shortest = static_cast<double>(std::min(size.width, size.height));
  double scale = std::min(static_cast<double>(rule.max_size) / longest, 1.0);
  scale = std::max(scale, static_cast<double>(rule.min_size) / shortest);
  ImageSize fitted = scaled(size, scale, rule.stride);
  if (fitted.width * fitted.height > rule.max_pixels) {
    fitted = scaled(fitted, static_cast<double>(rule.max_pixels) / static_cast<double>(fitted.width * fitted.height),
                    rule.stride);
  }
  const int64_t side = std::max(fitted.width, fitted.height);
  if (side > rule.max_size) {
    fitted = scaled(fitted, static_cast<double>(rule.max_size) / static_cast<double>(side), rule.stride);
  }
  return fitted;
}

Image resize_bicubic(const Image& image, ImageSize size) {
  if (size.width < 1 || size.height < 1 || image.width < 1 || image.height < 1) {
    throw std::invalid_argument("resize_bicubic: an image without pixels");
  }
  Image result = image;
  if (size.width != image.width) result = resize_width(result, size.width);
  if (size.height != image.height) result = resize_height(result, size.height);
  return result;
}

Image fit_image(const Image& image, const ImageSizeRule& rule) {
  return resize_bicubic(image, fit_size({image.width, image.height}, rule));
}

}  // namespace unigrpo::data

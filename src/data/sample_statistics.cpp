#include "data/sample_statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <unordered_set>
#include <vector>

namespace unigrpo::data {
namespace {

constexpr uint8_t kDark = 64;
constexpr int kEdge = 8;       // luma levels a pixel
constexpr int kSmallSide = 8;  // pixels

cv::Mat view(const Image& image) {
  return {image.height, image.width, CV_8UC3, const_cast<uint8_t*>(image.pixels.data())};
}

cv::Mat luma(const Image& image) {
  cv::Mat grey;
  cv::cvtColor(view(image), grey, cv::COLOR_RGB2GRAY);
  return grey;
}

/// Of pixels for which `counts(r, g, b)` holds.
template <typename Counts>
double share_of_pixels(const Image& image, const Counts& counts) {
  size_t count = 0;
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    count += counts(image.pixels[i], image.pixels[i + 1], image.pixels[i + 2]) ? 1 : 0;
  }
  return static_cast<double>(count) / static_cast<double>(image.pixels.size() / 3);
}

std::vector<std::string_view> words_of(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  std::vector<std::string_view> words;
  for (size_t begin = text.find_first_not_of(kBlank); begin != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(kBlank, begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = text.find_first_not_of(kBlank, end);
  }
  return words;
}

struct NgramCounts {
  std::unordered_set<std::string_view> distinct = {};
  size_t total = 0;
};

void count_ngrams(std::string_view text, size_t n, NgramCounts& counts) {
  const auto words = words_of(text);
  for (size_t i = 0; i + n <= words.size(); ++i) {
    const char* begin = words[i].data();
    const std::string_view last = words[i + n - 1];
    counts.distinct.emplace(begin, static_cast<size_t>(last.data() + last.size() - begin));
    ++counts.total;
  }
}

double distinct_share(const NgramCounts& counts) {
  return static_cast<double>(counts.distinct.size()) / static_cast<double>(counts.total);
}

}  // namespace

double brightness(const Image& image) { return cv::mean(luma(image))[0] / 255; }

double chroma(const Image& image) {
  int64_t sum = 0;
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    const auto [low, high] = std::minmax({image.pixels[i], image.pixels[i + 1], image.pixels[i + 2]});
    sum += high - low;
  }
  return static_cast<double>(sum) / (255.0 * static_cast<double>(image.pixels.size() / 3));
}

double dark_share(const Image& image) {
  return static_cast<double>(cv::countNonZero(luma(image) < kDark)) / static_cast<double>(image.pixels.size() / 3);
}

double saturated_share(const Image& image) {
  return share_of_pixels(image, [](int r, int g, int b) {
    const auto [low, high] = std::minmax({r, g, b});
    return high >= 64 && 4 * (high - low) >= high;
  });
}

double edge_density(const Image& image) {
  const cv::Mat grey = luma(image);
  cv::Mat dx, dy;
  cv::Sobel(grey, dx, CV_16S, 1, 0, 3, 1, 0, cv::BORDER_REPLICATE);
  cv::Sobel(grey, dy, CV_16S, 0, 1, 3, 1, 0, cv::BORDER_REPLICATE);
  constexpr int kLeast = 8 * kEdge;  // the kernel's weights are 8 times a change a pixel
  size_t count = 0;
  for (int y = 0; y < image.height; ++y) {
    const auto* across = dx.ptr<int16_t>(y);
    const auto* down = dy.ptr<int16_t>(y);
    for (int x = 0; x < image.width; ++x) {
      count += across[x] * across[x] + down[x] * down[x] >= kLeast * kLeast ? 1 : 0;
    }
  }
  return static_cast<double>(count) / static_cast<double>(image.pixels.size() / 3);
}

double color_entropy(const Image& image) {
  std::array<size_t, 512> counts{};
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    ++counts[static_cast<size_t>((image.pixels[i] >> 5) << 6 | (image.pixels[i + 1] >> 5) << 3 |
                                 image.pixels[i + 2] >> 5)];
  }
  const double total = static_cast<double>(image.pixels.size() / 3);
  double bits = 0;
  for (const size_t count : counts) {
    if (count > 0) bits += static_cast<double>(count) / total * std::log2(total / static_cast<double>(count));
  }
  return bits;
}

std::optional<double> image_diversity(std::span<const Image* const> images) {
  if (images.size() < 2) return std::nullopt;
  constexpr size_t kValues = 3 * kSmallSide * kSmallSide;
  std::array<double, kValues> sum{}, square{};
  for (const Image* image : images) {
    cv::Mat small;
    cv::resize(view(*image), small, {kSmallSide, kSmallSide}, 0, 0, cv::INTER_AREA);
    for (size_t i = 0; i < kValues; ++i) {
      const double value = small.data[i] / 255.0;
      sum[i] += value;
      square[i] += value * value;
    }
  }
  // Over all pairs, mean (a - b)^2 = 2 / (n - 1) * (sum a^2 - (sum a)^2 / n).
  const auto n = static_cast<double>(images.size());
  double mean = 0;
  for (size_t i = 0; i < kValues; ++i) mean += 2 / (n - 1) * (square[i] - sum[i] * sum[i] / n) / kValues;
  return std::sqrt(std::max(mean, 0.0));
}

double text_repetition(std::string_view text) {
  NgramCounts counts;
  count_ngrams(text, 3, counts);
  return counts.total == 0 ? 0.0 : 1 - distinct_share(counts);
}

std::optional<double> text_diversity(std::span<const std::string_view> texts) {
  NgramCounts counts;
  for (const std::string_view text : texts) count_ngrams(text, 2, counts);
  if (counts.total == 0) return std::nullopt;
  return distinct_share(counts);
}

}  // namespace unigrpo::data

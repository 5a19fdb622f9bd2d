#include "reward/builtin/color_detector.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <optional>
#include <utility>

#include "base/text.h"
#include "data/worlds/shapes_world.h"

namespace unigrpo::reward {
namespace {

namespace shapes = data::shapes;

constexpr int kNumColors = static_cast<int>(shapes::kColorNames.size());
constexpr int kNumShapes = static_cast<int>(shapes::kShapeNames.size());
constexpr int kUnknown = kNumColors;    // foreground of no palette colour
constexpr float kOpaque = 0.5f;         // coverage from which a pixel belongs to an object
constexpr float kMaxResidual = 60;      // RGB distance from the line background..colour
constexpr int kMinArea = 18;            // pixels; the world's smallest star covers 40
constexpr int kMinSeedArea = 8;         // pixels left of one colour after opening
constexpr double kMinSeedShare = 0.12;  // of the component: a smaller patch is a stain, not an object
constexpr int kGrid = 20;               // side of the normalised shape

struct Palette {
  cv::Vec3f background;
  std::array<cv::Vec3f, kNumColors> direction;  // background - colour
};

/// What each pixel is made of: pixel = background - coverage * direction[color] + residual.
struct Pixels {
  cv::Mat1f coverage;  // 0..1
  cv::Mat1b color;     // palette index or kUnknown
};

cv::Mat3b to_mat(const Image& image) {
  return cv::Mat3b(image.height, image.width, reinterpret_cast<cv::Vec3b*>(const_cast<uint8_t*>(image.pixels.data())))
      .clone();
}

/// Median of the light pixels, so that a slightly tinted background does not shift every coverage.
Palette estimate_palette(const cv::Mat3b& image) {
  std::array<std::vector<uint8_t>, 3> light;
  for (const cv::Vec3b& pixel : image) {
    if (std::min({pixel[0], pixel[1], pixel[2]}) < 200) continue;
    for (int c = 0; c < 3; ++c) light[static_cast<size_t>(c)].push_back(pixel[c]);
  }
  Palette palette;
  for (int c = 0; c < 3; ++c) {
    auto& values = light[static_cast<size_t>(c)];
    palette.background[c] = shapes::kBackgroundRgb[static_cast<size_t>(c)];
    if (values.size() * 10 < image.total()) continue;
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    palette.background[c] = *middle;
  }
  for (size_t color = 0; color < kNumColors; ++color) {
    const auto& rgb = shapes::kColorRgb[color];
    palette.direction[color] = palette.background - cv::Vec3f(rgb[0], rgb[1], rgb[2]);
  }
  return palette;
}

/// An anti-aliased or blurred edge lies on the line between background and colour, so the nearest
/// line tells the colour of edges as well as of interiors, where the nearest palette point would
/// invent other colours.
Pixels segment(const cv::Mat3b& image, const Palette& palette) {
  Pixels pixels = {cv::Mat1f(image.size(), 0.0f), cv::Mat1b(image.size(), static_cast<uint8_t>(kUnknown))};
  for (int y = 0; y < image.rows; ++y) {
    for (int x = 0; x < image.cols; ++x) {
      const cv::Vec3f offset = palette.background - cv::Vec3f(image(y, x));
      float best_residual = std::numeric_limits<float>::max();
      float best_coverage = 0;
      int best_color = kUnknown;
      for (int color = 0; color < kNumColors; ++color) {
        const cv::Vec3f& direction = palette.direction[static_cast<size_t>(color)];
        const float coverage = std::clamp(offset.dot(direction) / direction.dot(direction), 0.0f, 1.15f);
        const cv::Vec3f rest = offset - coverage * direction;
        const float residual = rest.dot(rest);
        if (residual < best_residual) {
          best_residual = residual;
          best_coverage = coverage;
          best_color = color;
        }
      }
      if (best_residual > kMaxResidual * kMaxResidual) continue;
      pixels.coverage(y, x) = std::min(best_coverage, 1.0f);
      pixels.color(y, x) = static_cast<uint8_t>(best_color);
    }
  }
  return pixels;
}

/// One object's pixels (255 where it is) and its palette colour.
struct Region {
  cv::Mat1b mask;
  int color = 0;
};

std::vector<cv::Mat1b> components(const cv::Mat1b& mask, int min_area) {
  cv::Mat1i labels;
  cv::Mat stats, centroids;
  const int num_labels = cv::connectedComponentsWithStats(mask, labels, stats, centroids, 8, CV_32S);
  std::vector<cv::Mat1b> parts;
  for (int label = 1; label < num_labels; ++label) {
    if (stats.at<int>(label, cv::CC_STAT_AREA) >= min_area) parts.emplace_back(labels == label);
  }
  return parts;
}

/// Distance of each pixel to the nearest pixel of `mask`.
cv::Mat1f distance_to(const cv::Mat1b& mask) {
  cv::Mat1b outside = ~mask;
  cv::Mat1f distance;
  cv::distanceTransform(outside, distance, cv::DIST_L2, cv::DIST_MASK_PRECISE);
  return distance;
}

/// Deals the pixels of `mask` out to the nearest seed.
std::vector<cv::Mat1b> divide(const cv::Mat1b& mask, const std::vector<cv::Mat1b>& seeds) {
  std::vector<cv::Mat1f> distances;
  for (const auto& seed : seeds) distances.push_back(distance_to(seed));
  std::vector<cv::Mat1b> parts(seeds.size());
  for (auto& part : parts) part = cv::Mat1b(mask.size(), uint8_t{0});
  for (int y = 0; y < mask.rows; ++y) {
    for (int x = 0; x < mask.cols; ++x) {
      if (!mask(y, x)) continue;
      size_t nearest = 0;
      for (size_t i = 1; i < seeds.size(); ++i) {
        if (distances[i](y, x) < distances[nearest](y, x)) nearest = i;
      }
      parts[nearest](y, x) = 255;
    }
  }
  return parts;
}

/// Splits a component where objects of different colours touch. A colour counts when an opening
/// leaves enough of it: the mixed line between two objects (blue and red give purple) is too thin
/// for that.
std::vector<Region> split_by_color(const cv::Mat1b& component, const cv::Mat1b& color) {
  const cv::Mat cross = cv::getStructuringElement(cv::MORPH_CROSS, {3, 3});
  std::vector<cv::Mat1b> seeds;
  std::vector<int> seed_colors, seed_areas;
  std::array<int, kNumColors> votes{};
  int total = 0;
  for (int c = 0; c < kNumColors; ++c) {
    cv::Mat1b mask = (color == c) & component;
    votes[static_cast<size_t>(c)] = cv::countNonZero(mask);
    if (votes[static_cast<size_t>(c)] < kMinSeedArea) continue;
    cv::Mat1b seed;
    cv::morphologyEx(mask, seed, cv::MORPH_OPEN, cross, {-1, -1}, 1, cv::BORDER_CONSTANT, cv::Scalar(0));
    const int area = cv::countNonZero(seed);
    if (area < kMinSeedArea) continue;
    seeds.push_back(seed);
    seed_colors.push_back(c);
    seed_areas.push_back(area);
    total += area;
  }
  for (size_t i = seeds.size(); i-- > 0;) {
    if (seed_areas[i] < kMinSeedShare * total) {
      const auto index = static_cast<std::ptrdiff_t>(i);
      seeds.erase(seeds.begin() + index);
      seed_colors.erase(seed_colors.begin() + index);
    }
  }
  if (seeds.size() < 2) {
    const int majority = static_cast<int>(std::max_element(votes.begin(), votes.end()) - votes.begin());
    return {{component, seeds.empty() ? majority : seed_colors.front()}};
  }
  std::vector<Region> regions;
  const std::vector<cv::Mat1b> parts = divide(component, seeds);
  for (size_t i = 0; i < parts.size(); ++i) {
    for (auto& part : components(parts[i], kMinArea)) regions.push_back({part, seed_colors[i]});
  }
  return regions;
}

/// Area over the area of the convex hull.
double solidity(const cv::Mat1b& mask) {
  std::vector<std::vector<cv::Point>> contours;
  cv::findContours(mask, contours, cv::RETR_EXTERNAL, cv::CHAIN_APPROX_NONE);
  std::vector<cv::Point> points, hull;
  for (const auto& contour : contours) points.insert(points.end(), contour.begin(), contour.end());
  if (points.size() < 3) return 1;
  cv::convexHull(points, hull);
  // The hull runs through pixel centres: half its length and one pixel more make it the pixels'
  // own.
  const double hull_area = cv::contourArea(hull) + cv::arcLength(hull, true) / 2 + 1;
  return cv::countNonZero(mask) / hull_area;
}

/// Splits objects of one colour that touch: with rising depth the neck between them goes before
/// their cores do. The arms of a star are too shallow to pass for cores.
std::vector<cv::Mat1b> split_touching(const cv::Mat1b& mask) {
  constexpr double kConvex = 0.9, kCoreShare = 0.6, kMinCore = 1.8;
  if (cv::countNonZero(mask) < 2 * kMinArea || solidity(mask) > kConvex) return {mask};
  cv::Mat1b padded;
  cv::copyMakeBorder(mask, padded, 1, 1, 1, 1, cv::BORDER_CONSTANT, cv::Scalar(0));
  cv::Mat1f padded_depth;
  cv::distanceTransform(padded, padded_depth, cv::DIST_L2, cv::DIST_MASK_PRECISE);
  const cv::Mat1f depth = padded_depth(cv::Rect(1, 1, mask.cols, mask.rows));
  double deepest = 0;
  cv::minMaxLoc(depth, nullptr, &deepest);
  const double core_depth = std::max(kMinCore, kCoreShare * deepest);
  for (double level = 1.2; level < deepest; level += 0.4) {
    std::vector<cv::Mat1b> cores;
    for (auto& part : components(depth > level, 1)) {
      double peak = 0;
      cv::minMaxLoc(depth, nullptr, &peak, nullptr, nullptr, part);
      if (peak >= core_depth) cores.push_back(part);
    }
    if (cores.size() < 2) continue;
    std::vector<cv::Mat1b> parts;
    for (auto& part : divide(mask, cores)) {
      if (cv::countNonZero(part) < kMinArea) return {mask};
      // A part may itself be two objects whose neck is wider.
      for (auto& piece : split_touching(part)) parts.push_back(piece);
    }
    return parts;
  }
  return {mask};
}

/// The coverage of one object: its pixels and the fringe around them that no other object owns.
cv::Mat1f own_coverage(const Pixels& pixels, const cv::Mat1b& mask, const cv::Mat1b& all) {
  cv::Mat1b reach;
  cv::dilate(mask, reach, cv::Mat());
  reach &= ~all | mask;
  cv::Mat1f own(mask.size(), 0.0f);
  pixels.coverage.copyTo(own, reach);
  return own;
}

/// Where the highest coverage along one axis crosses one half, in pixels, to a fraction of one.
std::pair<double, double> extent(const std::vector<float>& highest) {
  const int size = static_cast<int>(highest.size());
  const auto value = [&](int i) { return i < 0 || i >= size ? 0.0f : highest[static_cast<size_t>(i)]; };
  int first = 0, last = size - 1;
  while (first < last && value(first) < kOpaque) ++first;
  while (last > first && value(last) < kOpaque) --last;
  const auto crossing = [&](int inside, int outside) {
    const float in = value(inside), out = value(outside);
    return in > out ? std::clamp((in - kOpaque) / (in - out), 0.0f, 1.0f) : 0.5f;
  };
  return {first + 0.5 - crossing(first, first - 1), last + 0.5 + crossing(last, last + 1)};
}

shapes::Box soft_bounds(const cv::Mat1f& coverage) {
  cv::Mat1f columns, rows;
  cv::reduce(coverage, columns, 0, cv::REDUCE_MAX);
  cv::reduce(coverage, rows, 1, cv::REDUCE_MAX);
  const auto [left, right] = extent(std::vector<float>(columns.begin(), columns.end()));
  const auto [top, bottom] = extent(std::vector<float>(rows.begin(), rows.end()));
  return {left, top, right, bottom};
}

/// The object stretched to a kGrid x kGrid square.
cv::Mat1f normalized(const cv::Mat1f& coverage, const shapes::Box& box) {
  const double sx = box.width() / kGrid, sy = box.height() / kGrid;
  // Grid cell centre (i + 0.5) lies at box.left + (i + 0.5) * sx; pixel centres lie at x + 0.5.
  const cv::Matx23d grid_to_pixel(sx, 0, box.left + 0.5 * sx - 0.5, 0, sy, box.top + 0.5 * sy - 0.5);
  cv::Mat1f grid;
  cv::warpAffine(coverage, grid, grid_to_pixel, {kGrid, kGrid}, cv::INTER_LINEAR | cv::WARP_INVERSE_MAP,
                 cv::BORDER_CONSTANT, cv::Scalar(0));
  return grid;
}

struct Template {
  int shape = 0;
  cv::Mat1f grid;
};

/// What the world's shapes look like at several sizes, places between pixels and degrees of blur.
std::vector<Template> make_templates() {
  std::vector<Template> templates;
  constexpr auto kColor = shapes::Color::blue;
  for (int shape = 0; shape < kNumShapes; ++shape) {
    for (const double radius : {6.0, 7.5, 9.0, 11.0, 13.0}) {
      for (const double dx : {0.0, 0.5}) {
        for (const double dy : {0.0, 0.5}) {
          const cv::Mat3b image =
              to_mat(shapes::render({{static_cast<shapes::Shape>(shape), kColor, 32 + dx, 32 + dy, radius}}));
          for (const double sigma : {0.0, 0.7, 1.2}) {
            cv::Mat3b blurred = image;
            if (sigma > 0) cv::GaussianBlur(image, blurred, {0, 0}, sigma);
            const cv::Mat1f coverage = segment(blurred, estimate_palette(blurred)).coverage;
            templates.push_back({shape, normalized(coverage, soft_bounds(coverage))});
          }
        }
      }
    }
  }
  return templates;
}

class ColorDetector : public Detector {
 public:
  ColorDetector() : templates_(make_templates()) {}

  std::vector<Detection> detect(const Image& image) override {
    if (image.width < 8 || image.height < 8) return {};
    cv::Mat3b mat = to_mat(image);
    // Areas and openings are stated for the world's own size.
    const double scale = std::max(image.width, image.height) / static_cast<double>(shapes::kImageSize);
    if (scale > 1.5) {
      const cv::Size size(std::max(1, cvRound(image.width / scale)), std::max(1, cvRound(image.height / scale)));
      cv::Mat3b small;
      cv::resize(mat, small, size, 0, 0, cv::INTER_AREA);
      mat = small;
    }
    const double scale_x = static_cast<double>(image.width) / mat.cols;
    const double scale_y = static_cast<double>(image.height) / mat.rows;

    const Pixels pixels = segment(mat, estimate_palette(mat));
    const cv::Mat1b foreground = pixels.coverage >= kOpaque;
    std::vector<Region> objects;
    for (const auto& component : components(foreground, kMinArea)) {
      for (const auto& region : split_by_color(component, pixels.color)) {
        for (auto& part : split_touching(region.mask)) objects.push_back({part, region.color});
      }
    }
    std::vector<Detection> detections;
    for (const Region& object : objects) {
      const cv::Mat1f coverage = own_coverage(pixels, object.mask, foreground);
      const shapes::Box box = soft_bounds(coverage);
      const auto [shape, confidence] = classify(normalized(coverage, box));
      detections.push_back({.class_name = shapes::kShapeNames[static_cast<size_t>(shape)],
                            .color = shapes::kColorNames[static_cast<size_t>(object.color)],
                            .confidence = confidence,
                            .left = box.left * scale_x,
                            .top = box.top * scale_y,
                            .right = box.right * scale_x,
                            .bottom = box.bottom * scale_y});
    }
    return detections;
  }

  std::string blind_to(const std::string& class_name, const std::string& color) const override {
    const auto unknown = [](const auto& names, const std::string& name) {
      return std::ranges::find(names, name) == names.end();
    };
    const bool blind =
        unknown(shapes::kShapeNames, class_name) || (!color.empty() && unknown(shapes::kColorNames, color));
    if (!blind) return "";
    return fmt::format(
        "detector = \"color\" finds {} of the embedded world alone ({}), no {}; detector = \"http\" asks one that does",
        fmt::join(shapes::kShapeNames, ", "), fmt::join(shapes::kColorNames, ", "),
        in_quotes(color.empty() ? class_name : color + " " + class_name));
  }

  /// Its confidences say how clear a shape is; what it takes for an object is one.
  double min_confidence(bool) const override { return -1; }

 private:
  /// The shape of the nearest template. Confidence: how much nearer it is than the nearest of
  /// another shape, 1 where the difference is as large as between clean shapes (0.25 in root mean
  /// square) or larger.
  std::pair<int, double> classify(const cv::Mat1f& grid) const {
    std::array<double, kNumShapes> nearest;
    nearest.fill(std::numeric_limits<double>::max());
    for (const Template& candidate : templates_) {
      double& best = nearest[static_cast<size_t>(candidate.shape)];
      best = std::min(best, cv::norm(grid, candidate.grid, cv::NORM_L2) / kGrid);
    }
    const auto best = std::min_element(nearest.begin(), nearest.end());
    double second = std::numeric_limits<double>::max();
    for (auto it = nearest.begin(); it != nearest.end(); ++it) {
      if (it != best) second = std::min(second, *it);
    }
    return {static_cast<int>(best - nearest.begin()), std::min(1.0, (second - *best) / 0.25)};
  }

  std::vector<Template> templates_;
};

}  // namespace

std::unique_ptr<Detector> make_color_detector() { return std::make_unique<ColorDetector>(); }

}  // namespace unigrpo::reward

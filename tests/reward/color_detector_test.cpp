#include "reward/builtin/color_detector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "data/worlds/shapes_world.h"

namespace unigrpo::reward {
namespace {

namespace shapes = data::shapes;

/// Gaussian blur (separable, edge clamped) and Gaussian noise, without the library that the
/// detector uses.
Image degrade(const Image& image, double sigma_blur, double sigma_noise, RandomStream& random) {
  std::vector<double> kernel;
  const int reach = 3;
  double total = 0;
  for (int i = -reach; i <= reach; ++i) {
    kernel.push_back(std::exp(-i * i / (2 * sigma_blur * sigma_blur)));
    total += kernel.back();
  }
  const auto blurred = [&](const std::vector<double>& values, bool along_x) {
    std::vector<double> result(values.size());
    for (int y = 0; y < image.height; ++y) {
      for (int x = 0; x < image.width; ++x) {
        for (int c = 0; c < 3; ++c) {
          double sum = 0;
          for (int i = -reach; i <= reach; ++i) {
            const int sx = std::clamp(along_x ? x + i : x, 0, image.width - 1);
            const int sy = std::clamp(along_x ? y : y + i, 0, image.height - 1);
            sum +=
                kernel[static_cast<size_t>(i + reach)] * values[static_cast<size_t>(3 * (sy * image.width + sx) + c)];
          }
          result[static_cast<size_t>(3 * (y * image.width + x) + c)] = sum / total;
        }
      }
    }
    return result;
  };
  const std::vector<double> values =
      blurred(blurred(std::vector<double>(image.pixels.begin(), image.pixels.end()), true), false);
  Image result = image;
  for (size_t i = 0; i < values.size(); ++i) {
    result.pixels[i] = static_cast<uint8_t>(std::clamp(values[i] + sigma_noise * random.normal() + 0.5, 0.0, 255.0));
  }
  return result;
}

/// Every object found with class, colour and centre (within 2 pixels), and nothing else.
bool read_right(const shapes::Scene& scene, std::vector<Detection> detections) {
  for (const shapes::Object& object : scene) {
    const shapes::Box box = shapes::bounds(object);
    const auto match = std::find_if(detections.begin(), detections.end(), [&](const Detection& found) {
      return found.class_name == shapes::kShapeNames[static_cast<size_t>(object.shape)] &&
             found.color == shapes::kColorNames[static_cast<size_t>(object.color)] &&
             std::hypot(found.center_x() - box.center_x(), found.center_y() - box.center_y()) <= 2;
    });
    if (match == detections.end()) return false;
    detections.erase(match);
  }
  return detections.empty();
}

struct Accuracy {
  int scenes = 0, right = 0;
  double share() const { return static_cast<double>(right) / scenes; }
};

Accuracy measure(int num_scenes, double sigma_blur, double sigma_noise) {
  const shapes::WorldSplit split = shapes::make_split();
  const auto detector = make_color_detector();
  Accuracy accuracy;
  for (int i = 0; i < num_scenes; ++i) {
    RandomStream random({.seed = 11, .sample = static_cast<uint64_t>(i), .purpose = Purpose::test});
    const auto& prompts = i % 2 == 0 ? split.test : split.train;
    const shapes::Scene scene =
        shapes::draw_scene(prompts[static_cast<size_t>(random.below(prompts.size()))].json, random);
    Image image = shapes::render(scene);
    if (sigma_blur > 0) image = degrade(image, sigma_blur, sigma_noise, random);
    ++accuracy.scenes;
    accuracy.right += read_right(scene, detector->detect(image));
  }
  std::printf("blur %.1f, noise %.0f/255: %d of %d scenes read without error (%.2f%%)\n", sigma_blur, sigma_noise,
              accuracy.right, accuracy.scenes, 100 * accuracy.share());
  return accuracy;
}

TEST(ColorDetector, ReadsExactScenes) { EXPECT_GE(measure(2000, 0, 0).share(), 0.99); }

TEST(ColorDetector, ReadsMildlyBlurredAndNoisyScenes) { EXPECT_GE(measure(2000, 0.7, 6).share(), 0.95); }

TEST(ColorDetector, ReadsStronglyBlurredScenes) { EXPECT_GE(measure(500, 1.2, 8).share(), 0.9); }

TEST(ColorDetector, SplitsTouchingObjectsOfOneColour) {
  using enum shapes::Shape;
  const auto detector = make_color_detector();
  const auto color = shapes::Color::green;
  for (const auto shape : {circle, square, star}) {
    // Circles of radius 8 whose centres are 15 apart overlap by a pixel; squares and stars are
    // inscribed.
    const double distance = shape == circle ? 15.5 : shape == square ? 2 * 8 / std::sqrt(2.0) : 14.5;
    const shapes::Scene scene = {{shape, color, 20.3, 30, 8},
                                 {shape, color, 20.3 + distance, shape == square ? 37.0 : 30.0, 8}};
    EXPECT_TRUE(read_right(scene, detector->detect(shapes::render(scene))))
        << shapes::kShapeNames[static_cast<size_t>(shape)];
  }
}

TEST(ColorDetector, SplitsTouchingObjectsOfTwoColours) {
  using enum shapes::Shape;
  using enum shapes::Color;
  const auto detector = make_color_detector();
  RandomStream random({.seed = 5});
  // Red and blue mix to purple, red and yellow to orange: no third object may appear.
  for (const auto& [a, b] : {std::pair{red, blue}, std::pair{red, yellow}, std::pair{green, orange}}) {
    const shapes::Scene scene = {{circle, a, 22, 32, 9}, {square, b, 22 + 9 + 10 / std::sqrt(2.0), 32, 10}};
    EXPECT_TRUE(read_right(scene, detector->detect(degrade(shapes::render(scene), 0.7, 4, random))));
  }
}

TEST(ColorDetector, SeesNothingInEmptyGreyOrNoisyImages) {
  const auto detector = make_color_detector();
  EXPECT_TRUE(detector->detect(shapes::render({})).empty());
  EXPECT_TRUE(detector->detect(Image{}).empty());
  Image grey = shapes::render({});
  std::fill(grey.pixels.begin(), grey.pixels.end(), uint8_t{120});
  EXPECT_TRUE(detector->detect(grey).empty());
  RandomStream random({.seed = 6});
  EXPECT_TRUE(detector->detect(degrade(shapes::render({}), 0.5, 20, random)).empty());
}

TEST(ColorDetector, TakesImagesOfAnySizeAndContent) {
  const auto detector = make_color_detector();
  RandomStream random({.seed = 8});
  for (const auto& [width, height] :
       {std::pair{8, 8}, {1, 200}, {9, 900}, {900, 9}, {64, 64}, {65, 63}, {97, 40}, {200, 150}}) {
    for (const int block : {1, 5, 11}) {  // noise, then patches of random colours
      Image image = {.width = width, .height = height, .pixels = {}};
      image.pixels.resize(size_t{3} * static_cast<size_t>(width) * static_cast<size_t>(height));
      for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
          const bool copy_left = x % block != 0, copy_up = y % block != 0;
          for (int c = 0; c < 3; ++c) {
            image.at(x, y)[c] = copy_left ? image.at(x - 1, y)[c]
                                : copy_up ? image.at(x, y - 1)[c]
                                          : static_cast<uint8_t>(random.below(256));
          }
        }
      }
      for (const Detection& found : detector->detect(image)) {
        EXPECT_LT(found.left, found.right);
        EXPECT_LT(found.top, found.bottom);
        EXPECT_GE(found.left, 0);
        EXPECT_LE(found.right, width);
        EXPECT_GE(found.top, 0);
        EXPECT_LE(found.bottom, height);
        EXPECT_GE(found.confidence, 0);
        EXPECT_LE(found.confidence, 1);
      }
    }
  }
}

TEST(ColorDetector, BoxesFollowTheImagesOwnSize) {
  const shapes::Scene scene = {{shapes::Shape::square, shapes::Color::red, 20, 40, 10}};
  const Image small = shapes::render(scene);
  Image large = {.width = 256, .height = 256, .pixels = std::vector<uint8_t>(size_t{3} * 256 * 256)};
  for (int y = 0; y < 256; ++y) {
    for (int x = 0; x < 256; ++x) std::copy_n(small.at(x / 4, y / 4), 3, large.at(x, y));
  }
  const auto found = make_color_detector()->detect(large);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].class_name, "square");
  EXPECT_NEAR(found[0].left, 4 * (20 - 10 / std::sqrt(2.0)), 2);
  EXPECT_NEAR(found[0].bottom, 4 * (40 + 10 / std::sqrt(2.0)), 2);
  EXPECT_GT(found[0].confidence, 0.5);
}

}  // namespace
}  // namespace unigrpo::reward

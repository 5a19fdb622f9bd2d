#include "data/image_resize.h"

#include <gtest/gtest.h>

#include <string>

#include "io/image_codec.h"

namespace unigrpo::data {
namespace {

Image image(const std::string& name) {
  return io::read_image(std::string(UNIGRPO_SOURCE_DIR "/tests/data_module/images/resize_") + name + ".png");
}

TEST(ImageResize, GivesPillowsBytes) {  // 11.0: Image.resize(size, Image.BICUBIC)
  const Image source = image("source");
  for (const auto& [width, height] : {std::pair{16, 48}, {100, 20}, {8, 8}, {37, 64}, {74, 46}}) {
    const std::string name = std::to_string(width) + "x" + std::to_string(height);
    EXPECT_EQ(resize_bicubic(source, {width, height}), image(name)) << name;
  }
  EXPECT_EQ(resize_bicubic(source, {source.width, source.height}), source);
  EXPECT_THROW(resize_bicubic(source, {0, 4}), std::invalid_argument);
}

// Sizes computed with the published Python code.
TEST(FitSize, FollowsTheOfficialRule) {
  const ImageSizeRule latents;  // 512..1024 in steps of 16
  EXPECT_EQ(fit_size({1024, 1024}, latents), (ImageSize{1024, 1024}));
  EXPECT_EQ(fit_size({640, 480}, latents), (ImageSize{688, 512}));     // grown: 682.67 x 512
  EXPECT_EQ(fit_size({4000, 3000}, latents), (ImageSize{1024, 768}));  // the longest side
  EXPECT_EQ(fit_size({4000, 1000}, latents), (ImageSize{1024, 256}));  // grown again, then over the longest side
  EXPECT_EQ(fit_size({520, 520}, latents), (ImageSize{512, 512}));     // 32.5 strides: to the even one
  const ImageSizeRule vision{.max_size = 980, .min_size = 224, .stride = 14};
  EXPECT_EQ(fit_size({1024, 1024}, vision), (ImageSize{980, 980}));
  EXPECT_EQ(fit_size({100, 60}, vision), (ImageSize{378, 224}));  // 373.33, 26.6 strides
  const ImageSizeRule small{.max_size = 1024, .min_size = 512, .stride = 16, .max_pixels = 512 * 512};
  EXPECT_EQ(fit_size({1000, 800}, small), (ImageSize{320, 256}));
  EXPECT_THROW(fit_size({0, 5}, latents), std::invalid_argument);
}

}  // namespace
}  // namespace unigrpo::data

#include <gtest/gtest.h>

#include "io/image_codec.h"
#include "reward/builtin/last_image.h"

namespace unigrpo::reward {
namespace {

data::Sample sample_of(const Image& image) {
  data::Sample sample;
  sample.segments.push_back({.kind = data::SegmentKind::image, .text = "", .image = image});
  return sample;
}

Image grey(int side) {
  Image image{.width = side, .height = side, .pixels = {}};
  image.pixels.assign(3 * static_cast<size_t>(side) * static_cast<size_t>(side), 128);
  return image;
}

Image noise(int side) {
  Image image = grey(side);
  uint32_t state = 1;
  for (uint8_t& value : image.pixels) value = static_cast<uint8_t>((state = state * 1664525U + 1013904223U) >> 24);
  return image;
}

double size_of(const Image& image, JpegPrefer prefer = JpegPrefer::large) {
  return make_jpeg_reward(prefer)->score(std::vector{sample_of(image)})[0].value.value();
}

TEST(JpegReward, IsTheSizeOfTheFileInKilobytes) {
  const Image image = noise(64);
  const auto file = io::encode_image(image, io::ImageFormat::jpeg);
  EXPECT_EQ(size_of(image), static_cast<double>(file.size()) / 1000);
  EXPECT_EQ(file[0], 0xFF);
  EXPECT_EQ(file[1], 0xD8);
}

TEST(JpegReward, NoiseIsLargeAndGreyIsSmall) {
  // libjpeg at quality 95: Pillow writes 0.7 kB for the grey and 5.4 kB for the noise.
  EXPECT_LT(size_of(grey(64)), 1.0);
  EXPECT_GT(size_of(noise(64)), 5.0);
}

TEST(JpegReward, SmallFilesMayBePreferred) { EXPECT_EQ(size_of(noise(16), JpegPrefer::small), -size_of(noise(16))); }

TEST(JpegReward, HasNoScoreWithoutAnImage) {
  const Score score = make_jpeg_reward(JpegPrefer::large)->score(std::vector{data::Sample{}})[0];
  EXPECT_FALSE(score.value);
  EXPECT_EQ(score.reason, "no image");
  EXPECT_EQ(make_jpeg_reward(JpegPrefer::large)->missing_metadata("{}"), "");
}

}  // namespace
}  // namespace unigrpo::reward

#include "io/image_codec.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/rng.h"
#include "io/atomic_file.h"
#include "io/base64.h"
#include "support/mutate.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

using ::unigrpo::testing::TempFolder;

Image noise(int width, int height) {
  Image image{.width = width, .height = height, .pixels = {}};
  RandomStream random({.seed = 3, .purpose = Purpose::test});
  for (int i = 0; i < 3 * width * height; ++i) {
    image.pixels.push_back(static_cast<uint8_t>(random.below(256)));
  }
  return image;
}

std::string refusal(const std::filesystem::path& path) {
  try {
    read_image(path);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

TEST(ImageCodec, PngIsLossless) {
  const TempFolder folder;
  const Image image = noise(7, 5);
  write_png(folder.path() / "a.png", image);
  EXPECT_EQ(read_image(folder.path() / "a.png"), image);
  EXPECT_EQ(encode_png(image), encode_png(image));
}

TEST(ImageCodec, WritesEveryFormatThatItReads) {
  const TempFolder folder;
  Image image{.width = 9, .height = 6, .pixels = {}};
  for (int i = 0; i < 9 * 6; ++i) image.pixels.insert(image.pixels.end(), {255, 128, 0});
  for (const ImageFormat format : {ImageFormat::png, ImageFormat::jpeg, ImageFormat::webp}) {
    const auto bytes = encode_image(image, format);
    const auto header = read_image_header(bytes);
    ASSERT_TRUE(header);
    EXPECT_EQ(header->format, format);
    folder.write("a", std::string(bytes.begin(), bytes.end()));
    const Image again = read_image(folder.path() / "a");
    ASSERT_EQ(again.pixels.size(), image.pixels.size());
    for (size_t i = 0; i < image.pixels.size(); ++i)
      EXPECT_NEAR(again.pixels[i], image.pixels[i], 6);  // lossy by a few levels
  }
  image.pixels.pop_back();
  EXPECT_THROW(encode_image(image, ImageFormat::webp), RuntimeFailure);
}

// The files under images/ were made with Pillow.
std::filesystem::path made(const std::string& name) {
  return std::filesystem::path(UNIGRPO_SOURCE_DIR) / "tests/io/images" / name;
}

TEST(ImageCodec, ReadsJpegAndWebp) {
  for (const char* name : {"orange.jpg", "orange.webp", "orange_lossless.webp"}) {
    const Image image = read_image(made(name));
    EXPECT_EQ(image.width, 9);
    EXPECT_EQ(image.height, 6);
    EXPECT_NEAR(image.at(4, 3)[0], 255, 6);  // lossy by a few levels
    EXPECT_NEAR(image.at(4, 3)[1], 128, 6);
    EXPECT_NEAR(image.at(4, 3)[2], 0, 6);
  }
}

TEST(ImageCodec, JpegIsTurnedAsItsExifSays) {
  const Image image = read_image(made("rotated.jpg"));  // stored 32x16, red left of blue
  EXPECT_EQ(image.width, 16);
  EXPECT_EQ(image.height, 32);
  EXPECT_GT(image.at(8, 2)[0], 200);
  EXPECT_GT(image.at(8, 29)[2], 200);
}

TEST(ImageCodec, GreyTransparentAndDeepImagesBecomeRgb8) {
  EXPECT_EQ(read_image(made("grey.png")).pixels, std::vector<uint8_t>(12, 77));
  EXPECT_EQ(read_image(made("deep.png")).pixels, std::vector<uint8_t>(12, 255));
  EXPECT_EQ(read_image(made("palette.png")).at(1, 1)[2], 30);
  for (const char* name : {"transparent.png", "transparent_grey.png", "transparent.webp"}) {
    EXPECT_EQ(read_image(made(name)).pixels, std::vector<uint8_t>(12, 255)) << name;
  }
}

TEST(ImageCodec, HeadersAreReadWithoutDecoding) {
  const TempFolder folder;
  write_png(folder.path() / "a.png", noise(7, 5));
  const ImageHeader header = read_image_header(folder.path() / "a.png");
  EXPECT_EQ(header.width, 7U);
  EXPECT_EQ(header.height, 5U);
  for (const auto& path : {folder.path() / "gone.png", folder.write("text.png", "no image")}) {
    std::string message = "accepted";
    try {
      read_image_header(path);
    } catch (const BadInput& error) {
      message = error.what();
    }
    EXPECT_EQ(message, refusal(path));
  }
}

TEST(ImageCodec, HugeImagesAreRefusedBeforeDecoding) {
  const TempFolder folder;
  std::string png;
  for (const uint8_t byte : encode_png(noise(4, 4))) png += static_cast<char>(byte);
  png.replace(16, 8, std::string("\0\1\0\0\0\1\0\0", 8));  // 65536 x 65536
  EXPECT_NE(refusal(folder.write("a.png", png)).find("65536x65536"), std::string::npos);
}

TEST(ImageCodec, DamagedImagesAreRefused) {
  const TempFolder folder;
  EXPECT_NE(refusal(folder.write("a.png", "no image")).find("a.png: not a PNG"), std::string::npos);
  EXPECT_NE(refusal(folder.write("b.png", "")).find("b.png: not a PNG"), std::string::npos);
  const std::string whole = read_text_file(made("rotated.jpg"));
  const auto cut = folder.write("a.jpg", whole.substr(0, whole.size() - 20));
  EXPECT_NE(refusal(cut).find("truncated?"), std::string::npos);
}

TEST(ImageCodec, MutantsDecodeOrAreRefused) {
  const TempFolder folder;
  std::string png;
  for (const uint8_t byte : encode_png(noise(16, 16))) png += static_cast<char>(byte);
  ::testing::internal::CaptureStderr();  // libpng's own warnings
  for (uint64_t i = 0; i < 200; ++i) {
    RandomStream random({.seed = 22, .sample = i, .purpose = Purpose::test});
    refusal(folder.write("mutant.png", unigrpo::testing::mutate(png, random)));
  }
  ::testing::internal::GetCapturedStderr();
}

TEST(TileImages, LaysOutAGrid) {
  const Image dark{.width = 1, .height = 1, .pixels = {1, 2, 3}};
  const std::vector<Image> images(3, dark);
  const Image grid = tile_images(images, 2, 1, 2);
  EXPECT_EQ(grid.width, 5);
  EXPECT_EQ(grid.height, 5);
  EXPECT_EQ(grid.at(0, 0)[2], 3);
  EXPECT_EQ(grid.at(1, 1)[2], 3);
  EXPECT_EQ(grid.at(2, 0)[2], 255);  // gap
  EXPECT_EQ(grid.at(3, 0)[2], 3);
  EXPECT_EQ(grid.at(0, 4)[2], 3);
  EXPECT_EQ(grid.at(4, 4)[2], 255);  // no fourth image
  EXPECT_THROW(tile_images({}, 2), RuntimeFailure);
  EXPECT_THROW(tile_images(std::vector{dark, noise(2, 2)}, 2), RuntimeFailure);
}

TEST(Base64, MatchesTheRfcExamples) {
  const auto encode = [](std::string_view text) {
    return base64_encode({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  };
  EXPECT_EQ(encode(""), "");
  EXPECT_EQ(encode("f"), "Zg==");
  EXPECT_EQ(encode("fo"), "Zm8=");
  EXPECT_EQ(encode("foobar"), "Zm9vYmFy");
}

}  // namespace
}  // namespace unigrpo::io

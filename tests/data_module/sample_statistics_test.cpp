#include "data/sample_statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace unigrpo::data {
namespace {

using Rgb = std::array<uint8_t, 3>;

constexpr Rgb kBlack = {0, 0, 0}, kWhite = {255, 255, 255}, kGrey = {128, 128, 128}, kRed = {200, 0, 0};
constexpr double kSum = 1e-13;  // double, 192 summands

Image filled(int width, int height, const Rgb& color) {
  Image image{.width = width, .height = height, .pixels = std::vector<uint8_t>(size_t{3} * width * height)};
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = color[i % 3];
  return image;
}

/// Columns from `from` on in `right`, the others in `left`.
Image halves(int width, int height, int from, const Rgb& left, const Rgb& right) {
  Image image = filled(width, height, left);
  for (int y = 0; y < height; ++y) {
    for (int x = from; x < width; ++x) std::copy(right.begin(), right.end(), image.at(x, y));
  }
  return image;
}

TEST(Brightness, IsTheMeanLuma) {
  EXPECT_EQ(brightness(filled(4, 4, kBlack)), 0);
  EXPECT_EQ(brightness(filled(4, 4, kWhite)), 1);
  EXPECT_DOUBLE_EQ(brightness(filled(4, 4, {51, 51, 51})), 0.2);
  EXPECT_DOUBLE_EQ(brightness(filled(1, 1, kRed)), 60.0 / 255);  // 0.299 * 200 = 59.8
  EXPECT_EQ(brightness(halves(8, 2, 2, kBlack, kWhite)), 0.75);
}

TEST(Chroma, IsTheMeanDistanceFromGrey) {
  EXPECT_EQ(chroma(filled(4, 4, kGrey)), 0);
  EXPECT_EQ(chroma(filled(4, 4, {0, 255, 0})), 1);
  EXPECT_DOUBLE_EQ(chroma(halves(4, 1, 1, kRed, {240, 250, 255})), (200 + 3 * 15) / (4 * 255.0));
}

TEST(DarkShare, CountsPixelsOfLowLuma) {
  EXPECT_EQ(dark_share(filled(4, 4, kBlack)), 1);
  EXPECT_EQ(dark_share(filled(4, 4, kWhite)), 0);
  EXPECT_EQ(dark_share(halves(8, 2, 6, kWhite, kBlack)), 0.25);
  // The limit is 64, and of the channels green weighs most: 0.587 * 109 = 64, 0.299 * 200 = 60, 0.114 * 255 = 29.
  EXPECT_EQ(dark_share(filled(1, 1, {63, 63, 63})), 1);
  EXPECT_EQ(dark_share(filled(1, 1, {64, 64, 64})), 0);
  EXPECT_EQ(dark_share(filled(1, 1, {0, 109, 0})), 0);
  EXPECT_EQ(dark_share(filled(1, 1, kRed)), 1);
  EXPECT_EQ(dark_share(filled(1, 1, {0, 0, 255})), 1);
}

TEST(SaturatedShare, CountsColourButNotTheNoiseOfTheDark) {
  EXPECT_EQ(saturated_share(filled(4, 4, kGrey)), 0);
  EXPECT_EQ(saturated_share(halves(4, 1, 1, kRed, kWhite)), 0.25);
  EXPECT_EQ(saturated_share(filled(1, 1, {100, 75, 90})), 1);  // (100 - 75) / 100 = 1/4
  EXPECT_EQ(saturated_share(filled(1, 1, {100, 76, 90})), 0);
  EXPECT_EQ(saturated_share(filled(1, 1, {0, 63, 0})), 0);
  EXPECT_EQ(saturated_share(filled(1, 1, {0, 64, 0})), 1);
}

TEST(EdgeDensity, CountsThePixelsBesideAnEdge) {
  EXPECT_EQ(edge_density(filled(8, 8, kGrey)), 0);
  EXPECT_EQ(edge_density(halves(8, 8, 4, kBlack, kWhite)), 2.0 / 8);  // one column on either side
  // A step of 16 is a change of 8 a pixel, a step of 15 is less.
  EXPECT_EQ(edge_density(halves(8, 8, 4, {100, 100, 100}, {116, 116, 116})), 2.0 / 8);
  EXPECT_EQ(edge_density(halves(8, 8, 4, {100, 100, 100}, {115, 115, 115})), 0);
  // A step at the border of the image is seen, the border itself is no edge.
  EXPECT_EQ(edge_density(halves(8, 8, 7, kBlack, kWhite)), 2.0 / 8);
}

TEST(ColorEntropy, IsInBitsOverCoarseColours) {
  EXPECT_EQ(color_entropy(filled(4, 4, kRed)), 0);
  EXPECT_EQ(color_entropy(halves(4, 4, 2, kRed, kWhite)), 1);
  EXPECT_DOUBLE_EQ(color_entropy(halves(4, 4, 1, kRed, kWhite)), 0.25 * 2 + 0.75 * std::log2(4.0 / 3));
  EXPECT_EQ(color_entropy(halves(4, 4, 2, {224, 0, 0}, {255, 31, 31})), 0);  // one bin
  Image all{.width = 32, .height = 16, .pixels = {}};
  for (int i = 0; i < 512; ++i) {
    for (const int shift : {6, 3, 0}) all.pixels.push_back(static_cast<uint8_t>((i >> shift & 7) << 5));
  }
  EXPECT_DOUBLE_EQ(color_entropy(all), 9);
}

TEST(PictureDiversity, IsTheRootMeanSquareOverPairs) {
  const Image black = filled(16, 16, kBlack), white = filled(16, 16, kWhite);
  const Image half = halves(16, 16, 8, kBlack, kWhite);
  EXPECT_EQ(image_diversity(std::array{&white, &white, &white}), 0);
  EXPECT_NEAR(image_diversity(std::array{&black, &white}).value(), 1, kSum);
  EXPECT_NEAR(image_diversity(std::array{&black, &half}).value(), std::sqrt(0.5), kSum);
  // Three pairs: 1, 1/2, 1/2.
  EXPECT_NEAR(image_diversity(std::array{&black, &white, &half}).value(), std::sqrt(2.0 / 3), kSum);
  EXPECT_EQ(image_diversity(std::array{&black}), std::nullopt);
  EXPECT_EQ(image_diversity({}), std::nullopt);
}

TEST(PictureDiversity, ComparesImagesOfAnySizes) {
  const Image small = filled(3, 5, kWhite), large = filled(40, 24, kWhite), black = filled(64, 64, kBlack);
  EXPECT_EQ(image_diversity(std::array{&small, &large}), 0);
  EXPECT_NEAR(image_diversity(std::array{&small, &black}).value(), 1, kSum);
}

TEST(TextRepetition, IsTheShareOfTrigramsThatStoodThereBefore) {
  EXPECT_EQ(text_repetition("a red circle and a blue star"), 0);
  EXPECT_DOUBLE_EQ(text_repetition("a a a a a"), 2.0 / 3);
  EXPECT_EQ(text_repetition("one red star one red star"), 1.0 / 4);
  EXPECT_EQ(text_repetition("no trigram"), 0);
  EXPECT_EQ(text_repetition(""), 0);
}

TEST(TextDiversity, IsTheShareOfDistinctBigrams) {
  using Texts = std::vector<std::string_view>;
  EXPECT_EQ(text_diversity(Texts{"a red star", "a red star", "a red star", "a red star"}), 0.25);
  EXPECT_EQ(text_diversity(Texts{"a red star", "one blue circle"}), 1);
  EXPECT_EQ(text_diversity(Texts{" a red star\n", "a red\tstar"}), 0.75);  // white space within as it stands
  EXPECT_EQ(text_diversity(Texts{"a red star", "a red circle"}), 0.75);
  EXPECT_EQ(text_diversity(Texts{"one", "", "two"}), std::nullopt);
  EXPECT_EQ(text_diversity(Texts{}), std::nullopt);
}

}  // namespace
}  // namespace unigrpo::data

#include "scorers/images.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "scorers/tiny_clip.h"
#include "support/tensors.h"

namespace unigrpo::scorers {
namespace {

using testing::close;

Image grey(int width, int height) {
  return {
      .width = width, .height = height, .pixels = std::vector<uint8_t>(static_cast<size_t>(3) * width * height, 128)};
}

// Images that shrink, grow, have the right size already, and long ones, upright and lying.
TEST(PixelValues, AreThoseOfClipImageProcessor) {
  for (const char* name : kFolders) {
    const Golden golden(name);
    const at::Tensor want = golden.tensor("pixel_values");
    const ClipImageConfig config = read_clip_image_config(kData / name, want.size(2));
    ASSERT_EQ(golden.images.size(), 6u);
    const at::Tensor got = pixel_values(config, pointers(golden.images));
    EXPECT_TRUE(close(got, want, 1e-6)) << name;  // the same bytes; rounding of one division
  }
}

TEST(EmbedImages, DoesNotDependOnTheBatchSize) {
  const Golden golden("clip_tiny");
  const ClipModel model = ClipModel::load(kData / "clip_tiny", ClipModel::Towers::image);
  const ClipImageConfig config = read_clip_image_config(kData / "clip_tiny", 32);
  const at::Tensor all = embed_images(model, config, pointers(golden.images), 32);
  EXPECT_TRUE(close(all.norm(2, -1), at::ones({6}), 1e-6));
  EXPECT_TRUE(close(embed_images(model, config, pointers(golden.images), 4), all, 1e-6));
}

TEST(ImagesToJudge, TakesLastImagesAndSaysWhyOthersAreLeftOut) {
  std::vector<data::Sample> samples(4);
  samples[1] = sample_of("two", grey(2, 2));
  samples[1].segments.push_back({.kind = data::SegmentKind::image, .text = "", .image = grey(5, 3)});
  samples[2] = sample_of("strip", grey(1, 100));
  samples[3] = sample_of("nothing", Image{});
  std::vector<reward::Score> scores(4);
  const ImagesToJudge judged = images_to_judge(samples, scores);
  EXPECT_EQ(judged.rows, std::vector<size_t>{1});
  EXPECT_EQ(judged.images.at(0)->width, 5);
  EXPECT_EQ(scores[0].reason, "no image");
  EXPECT_EQ(scores[1].reason, "");
  EXPECT_EQ(scores[2].reason, "an image of 1x100 pixels: one side is 100 times the other or more");
  EXPECT_EQ(scores[3].reason, "an image without pixels");
}

}  // namespace
}  // namespace unigrpo::scorers

// The shipped model's autoencoder must not be what limits the reward: what it decodes reads like
// what was rendered.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

#include "data/prompt_file.h"
#include "data/worlds/shapes_world.h"
#include "policy/bagel/bagel.h"
#include "reward/builtin/color_detector.h"
#include "reward/builtin/geneval.h"

namespace unigrpo::train {
namespace {

TEST(ShapesBase, DecodedImagesReadAsTheScenesThatWereEncoded) {
  const std::string root = UNIGRPO_SOURCE_DIR;
  policy::PolicyConfig config;
  config.model = root + "/assets/shapes-base";
  const auto model = policy::Bagel::load(config, {});
  const auto prompts = data::read_prompt_file(root + "/assets/shapes-world/test.jsonl");
  const auto detector = reward::make_color_detector();
  constexpr int64_t kImages = 200;
  std::vector<Image> images;
  for (int64_t i = 0; i < kImages; ++i) {
    RandomStream stream({.sample = static_cast<uint64_t>(i), .purpose = Purpose::test});
    const auto line = data::shapes::world_line(prompts[static_cast<size_t>(i) * prompts.size() / kImages]);
    images.push_back(data::shapes::render(data::shapes::draw_scene(line, stream)));
  }
  const auto decoded = model->decode(model->encode_images(policy::to_pixels(images)), model->grid_for(64));
  int64_t right = 0;
  for (int64_t i = 0; i < kImages; ++i) {
    const auto& prompt = prompts[static_cast<size_t>(i) * prompts.size() / kImages];
    const auto found = detector->detect(decoded[i]);
    right +=
        reward::score_geneval(reward::parse_geneval_row(prompt.metadata_json), found, 64, 64).strict == 1.0 ? 1 : 0;
  }
  RecordProperty("right", static_cast<int>(right));
  EXPECT_GE(right, kImages * 97 / 100);
}

}  // namespace
}  // namespace unigrpo::train

// A pair of models behind the engine: what it samples is what the training forward says of it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/error.h"
#include "grpo/update.h"
#include "io/image_codec.h"
#include "rollout/engine.h"
#include "support/tensors.h"
#include "support/tiny_pair.h"
#include "support/tiny_rollout.h"

namespace unigrpo::rollout {
namespace {

using data::SegmentKind;
using testing::close;
using testing::kImage;
using testing::kText;

constexpr double kSame = 1e-5;  // float32; other batches sum in other orders

class PairedRollout : public ::testing::Test {
 protected:
  PairedRollout() {
    testing::make_texts_end(*model);
    Image image{.width = 80, .height = 64, .pixels = {}};
    for (int i = 0; i < 80 * 64 * 3; ++i) image.pixels.push_back(static_cast<uint8_t>((i * i + 7 * i) % 251));
    image_file = (folder.path() / "image.png").string();
    io::write_png(image_file, image);
  }

  std::vector<Trajectory> roll(const std::string& system = "draw it") const {
    RolloutRequest what = testing::request(list, 3);
    what.guidance.text_scale = config.rollout_cfg_scale;
    return RolloutEngine(*model, config, {.seed = 11}, system).rollout(what);
  }
  grpo::LogProbNoise noise(const std::vector<Trajectory>& all) const {
    grpo::GrpoConfig grpo_config;
    grpo_config.micro_batch_tokens = 100000;
    optim::OptimConfig optim_config;
    optim::AdamW optimizer(optim_config, {});
    optim::GradClip clip(optim_config);
    return grpo::measure_log_prob_noise(
        {.policy = *model, .optimizer = optimizer, .clip = clip, .config = grpo_config, .rollout = config}, all);
  }

  const testing::PairFolder folder;
  const std::unique_ptr<policy::Paired> model = folder.load();
  std::string image_file;
  std::vector<data::Prompt> list = testing::prompts({"a red circle", "two squares beside a star"});
  RolloutConfig config = testing::tiny_rollout();
};

TEST_F(PairedRollout, LogProbsAreThoseOfTheTrainingForward) {
  for (const bool images : {false, true}) {
    for (data::Prompt& prompt : list) prompt.images.assign(images ? 1 : 0, image_file);
    for (const std::vector<SegmentKind>& episode :
         std::vector<std::vector<SegmentKind>>{{kText, kImage}, {kImage}, {kText, kImage, kText, kImage}}) {
      config.episode = episode;
      for (const double guidance : {1.0, 2.0}) {
        config.rollout_cfg_scale = guidance;
        const auto all = roll();
        int ended = 0, truncated = 0;
        for (const Trajectory& trajectory : all) {
          EXPECT_EQ(trajectory.segments, episode);
          if (!trajectory.texts.empty()) ++(trajectory.texts.front().finished ? ended : truncated);
        }
        if (episode.front() == kText) {
          EXPECT_GT(ended, 0);
          EXPECT_GT(truncated, 0);
        }
        const grpo::LogProbNoise found = noise(all);  // and stops where a digest differs
        EXPECT_LT(found.text, kSame) << episode.size() << " segments, guidance " << guidance;
        EXPECT_LT(found.image, kSame) << episode.size() << " segments, guidance " << guidance;
      }
    }
  }
}

TEST_F(PairedRollout, TextAloneWorksToo) {
  config.episode = {kText};
  const auto all = roll("");
  EXPECT_LT(noise(all).text, kSame);
  for (data::Prompt& prompt : list) prompt.images = {image_file};
  EXPECT_EQ(testing::message_of<BadInput>([&] { roll(); }),
            image_file + ": " + folder.path().string() +
                ": the text model of a pair sees no images; a prompt with one needs an episode with an image");
}

TEST_F(PairedRollout, TheTokenBudgetDoesNotChangeTheResult) {
  config.episode = {kText, kImage, kText};
  const auto all = roll();
  for (const int64_t budget : {1, 150, 500}) {
    config.token_budget = budget;
    const auto some = roll();
    ASSERT_EQ(some.size(), all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      for (size_t n : {0, 1}) EXPECT_EQ(some[i].texts.at(n).ids, all[i].texts.at(n).ids);
      const at::Tensor& want = all[i].flows.at(0).stream().final_latent;
      EXPECT_TRUE(close(some[i].flows.at(0).stream().final_latent, want, kSame));
    }
  }
}

TEST_F(PairedRollout, TheTextOfALaterTurnDependsOnNoImage) {
  config.episode = {kText, kImage, kText};
  const auto plain = roll();
  for (data::Prompt& prompt : list) prompt.images = {image_file};
  const auto edited = roll();
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(edited[i].texts.at(1).ids, plain[i].texts.at(1).ids);
    EXPECT_FALSE(close(edited[i].flows.at(0).stream().velocities, plain[i].flows.at(0).stream().velocities, kSame));
  }
}

}  // namespace
}  // namespace unigrpo::rollout

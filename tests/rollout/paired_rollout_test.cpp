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

using testing::close;

constexpr double kSame = 1e-5;  // float32; other batches sum in other orders

class PairedRollout : public ::testing::Test {
 protected:
  PairedRollout() {
    testing::make_texts_end(*model);
    Image picture{.width = 80, .height = 64, .pixels = {}};
    for (int i = 0; i < 80 * 64 * 3; ++i) picture.pixels.push_back(static_cast<uint8_t>((i * i + 7 * i) % 251));
    picture_file = (folder.path() / "picture.png").string();
    io::write_png(picture_file, picture);
  }

  std::vector<Trajectory> roll(const std::string& system = "draw it") const {
    RolloutRequest what = testing::request(list, 3);
    what.guidance.text_scale = config.train_guidance;
    return RolloutEngine(*model, config, 11, system).rollout(what);
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
  std::string picture_file;
  std::vector<data::Prompt> list = testing::prompts({"a red circle", "two squares beside a star"});
  RolloutConfig config = testing::tiny_rollout();
};

TEST_F(PairedRollout, LogProbsAreThoseOfTheTrainingForward) {
  for (const bool pictures : {false, true}) {
    for (data::Prompt& prompt : list) prompt.images.assign(pictures ? 1 : 0, picture_file);
    for (const std::vector<std::string>& program :
         std::vector<std::vector<std::string>>{{"text", "image"}, {"image"}, {"text", "image", "text", "image"}}) {
      config.program = program;
      for (const double guidance : {1.0, 2.0}) {
        config.train_guidance = guidance;
        const auto all = roll();
        int ended = 0, cut = 0;
        for (const Trajectory& trajectory : all) {
          ASSERT_EQ(trajectory.segments.size(), program.size());
          const auto* text = std::get_if<TextSegment>(&trajectory.segments.front());
          if (text) ++(text->ended ? ended : cut);
        }
        if (program.front() == "text") {
          EXPECT_GT(ended, 0);
          EXPECT_GT(cut, 0);
        }
        const grpo::LogProbNoise found = noise(all);  // and stops where a digest differs
        EXPECT_LT(found.text, kSame) << program.size() << " segments, guidance " << guidance;
        EXPECT_LT(found.image, kSame) << program.size() << " segments, guidance " << guidance;
      }
    }
  }
}

TEST_F(PairedRollout, TextAloneWorksToo) {
  config.program = {"text"};
  const auto all = roll("");
  EXPECT_LT(noise(all).text, kSame);
  for (data::Prompt& prompt : list) prompt.images = {picture_file};
  EXPECT_EQ(testing::message_of<BadInput>([&] { roll(); }),
            picture_file + ": " + folder.path().string() +
                ": the text model of a pair sees no pictures; a prompt with one needs a program that draws");
}

TEST_F(PairedRollout, TheTokenBudgetDoesNotChangeTheResult) {
  config.program = {"text", "image", "text"};
  const auto all = roll();
  for (const int64_t budget : {1, 150, 500}) {
    config.token_budget = budget;
    const auto some = roll();
    ASSERT_EQ(some.size(), all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      for (size_t s = 0; s < all[i].segments.size(); ++s) {
        if (const auto* text = std::get_if<TextSegment>(&all[i].segments[s])) {
          EXPECT_EQ(std::get<TextSegment>(some[i].segments[s]).ids, text->ids);
        } else {
          const at::Tensor& want = std::get<ImageSegment>(all[i].segments[s]).final_latent;
          EXPECT_TRUE(close(std::get<ImageSegment>(some[i].segments[s]).final_latent, want, kSame));
        }
      }
    }
  }
}

TEST_F(PairedRollout, TheTextOfALaterRoundDependsOnNoPicture) {
  config.program = {"text", "image", "text"};
  const auto plain = roll();
  for (data::Prompt& prompt : list) prompt.images = {picture_file};
  const auto edited = roll();
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_EQ(std::get<TextSegment>(edited[i].segments[2]).ids, std::get<TextSegment>(plain[i].segments[2]).ids);
    EXPECT_FALSE(close(std::get<ImageSegment>(edited[i].segments[1]).velocities,
                       std::get<ImageSegment>(plain[i].segments[1]).velocities, kSame));
  }
}

}  // namespace
}  // namespace unigrpo::rollout

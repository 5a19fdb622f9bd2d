// Clips as the engine draws them: a video and its sound, stream by stream.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "base/error.h"
#include "flow/shifted_grid.h"
#include "rollout/engine.h"
#include "rollout/rules.h"
#include "support/tensors.h"
#include "support/tiny_av.h"
#include "support/tiny_rollout.h"

namespace unigrpo::rollout {
namespace {

using testing::close;
using testing::TinyAv;

std::vector<Trajectory> roll(TinyAv& tiny, const RolloutConfig& config, bool stochastic = true) {
  const auto list = testing::prompts({TinyAv::prompt(0), TinyAv::prompt(1)});
  RolloutRequest request = testing::request(list, 3);
  request.stochastic = stochastic;
  return RolloutEngine(*tiny.policy, config, {.seed = 5}, "").rollout(request);
}

/// log N(x_next; mean, std) of flow_sde as the paper writes it, in float64, mean over latent elements.
double log_prob_by_hand(const at::Tensor& x, const at::Tensor& v, const at::Tensor& x_next, double a, double t,
                        double t_next, double t_max) {
  const double delta = t_next - t, sigma2 = a * a * t / (1 - (t >= 1 ? t_max : t));
  const at::Tensor mean =
      x.to(at::kDouble) * (1 + sigma2 / (2 * t) * delta) + v.to(at::kDouble) * (1 + sigma2 * (1 - t) / (2 * t)) * delta;
  const double variance = sigma2 * -delta;
  return (-(x_next.to(at::kDouble) - mean).square() / (2 * variance)).mean().item<double>() - 0.5 * std::log(variance) -
         0.5 * std::log(2 * std::numbers::pi);
}

TEST(AvRollout, EachStreamHasTheLogProbOfItsOwnGaussian) {
  TinyAv tiny;
  RolloutConfig config = testing::tiny_av_rollout();
  config.video_noise_level = 0.5;
  config.audio_noise_level = 0.9;
  const auto all = roll(tiny, config);
  ASSERT_EQ(all.size(), 6u);
  for (const Trajectory& t : all) {
    const FlowSegment& clip = t.flows.at(0);
    ASSERT_EQ(clip.streams.size(), 2u);
    EXPECT_EQ(clip.streams[0].modality, "video");
    EXPECT_EQ(clip.streams[1].modality, "audio");
    EXPECT_EQ(clip.streams[0].latents.sizes(), at::IntArrayRef({3, 2 * 2 * 2, 8}));
    EXPECT_EQ(clip.streams[1].latents.sizes(), at::IntArrayRef({3, 9, 8}));  // 9 / 24 s, 25 latents a second
    for (size_t m = 0; m < 2; ++m) {
      const FlowStream& stream = clip.streams[m];
      for (int64_t s = 0; s < 2; ++s) {
        const int64_t step = clip.window.first + s;
        const double want =
            log_prob_by_hand(stream.latents[s], stream.velocities[s], stream.latents[s + 1], m == 0 ? 0.5 : 0.9,
                             clip.timesteps[step], clip.timesteps[step + 1], clip.timesteps[1]);
        EXPECT_NEAR(stream.log_probs[s].item<double>(), want, 1e-5) << stream.modality;  // float32
      }
    }
  }
}

TEST(AvRollout, TheGridIsTheModelsForItsVideoTokensOrThoseAskedFor) {
  TinyAv tiny;
  RolloutConfig config = testing::tiny_av_rollout();
  const auto grid = policy::ltx2::read_scheduler_config(tiny.config.model + "/scheduler/scheduler_config.json");
  EXPECT_EQ(roll(tiny, config)[0].flows[0].timesteps, flow::shifted_grid(grid, 4, 8));
  EXPECT_EQ(roll(tiny, config)[0].flows[0].timesteps.front(), 1.0);
  config.shift_tokens = 4096;
  EXPECT_EQ(roll(tiny, config)[0].flows[0].timesteps, flow::shifted_grid(grid, 4, 4096));
}

TEST(AvRollout, NoiseIsTheStreamsOwn) {
  TinyAv tiny;
  const auto all = roll(tiny, testing::tiny_av_rollout());
  const FlowSegment& clip = all[0].flows[0];
  const at::Tensor video = clip.streams[0].final_latent.flatten(), audio = clip.streams[1].final_latent.flatten();
  const int64_t common = std::min(video.numel(), audio.numel());
  EXPECT_FALSE(close(video.narrow(0, 0, common), audio.narrow(0, 0, common), 1e-2));
  // Samples of a group differ in both.
  for (size_t m = 0; m < 2; ++m) {
    EXPECT_FALSE(close(all[0].flows[0].streams[m].final_latent, all[1].flows[0].streams[m].final_latent, 1e-2));
  }
}

TEST(AvRollout, OneStreamMayGoByOde) {
  TinyAv tiny;
  RolloutConfig config = testing::tiny_av_rollout();
  config.audio_noise_level = 0;
  for (const Trajectory& t : roll(tiny, config)) {
    const FlowSegment& clip = t.flows[0];
    EXPECT_EQ(clip.num_actions(), 2);
    EXPECT_EQ(clip.window_of(clip.streams[0]).width(), 2);
    EXPECT_EQ(clip.window_of(clip.streams[1]).width(), 0);
    EXPECT_EQ(clip.streams[1].log_probs.abs().sum().item<double>(), 0);
    const FlowStream& sound = clip.streams[1];
    for (int64_t s = 0; s < 2; ++s) {  // both streams' states are kept, and the sound's follow its velocity
      const double delta = clip.timesteps[clip.window.first + s + 1] - clip.timesteps[clip.window.first + s];
      EXPECT_TRUE(close(sound.latents[s + 1], sound.latents[s] + sound.velocities[s] * delta, 1e-6));
    }
  }
}

TEST(AvRollout, TheSoundsWindowMayBeginLater) {
  TinyAv tiny;
  RolloutConfig config = testing::tiny_av_rollout();
  config.window = {.mode = flow::WindowMode::fixed, .width = 2, .first = 0};
  config.audio_window_offset = 1;
  for (const Trajectory& t : roll(tiny, config)) {
    const FlowSegment& clip = t.flows[0];
    EXPECT_EQ(clip.num_actions(), 3);
    EXPECT_EQ(clip.window_of(clip.streams[0]).last, 2);
    EXPECT_EQ(clip.window_of(clip.streams[1]).first, 1);
    EXPECT_EQ(clip.streams[0].log_probs[2].item<double>(), 0);
    EXPECT_EQ(clip.streams[1].log_probs[0].item<double>(), 0);
    EXPECT_NE(clip.streams[1].log_probs[2].item<double>(), 0);
  }
}

TEST(AvRollout, ClipsAreDecodedAtTheirSizeAndLength) {
  TinyAv tiny;
  const auto all = roll(tiny, testing::tiny_av_rollout(), /*stochastic=*/false);
  EXPECT_EQ(all[0].flows[0].num_actions(), 0);
  for (const Trajectory& t : all) {
    ASSERT_EQ(t.sample.segments.size(), 1u);
    EXPECT_EQ(t.sample.segments[0].kind, data::SegmentKind::av);
    const media::Clip& clip = *t.sample.last_clip();
    EXPECT_EQ(clip.frames.count, 9);
    EXPECT_EQ(clip.frames.height, 64);
    EXPECT_EQ(clip.frames.width, 64);
    EXPECT_EQ(clip.frames.pixels.size(), 9u * 64 * 64 * 3);
    EXPECT_EQ(clip.fps, (media::Rational{24, 1}));
    EXPECT_EQ(clip.sound.channels, 2);
    EXPECT_EQ(clip.sound.length(), std::llround(clip.frames_s() * clip.sound.rate));
  }
}

TEST(AvRollout, RowsDoNotDependOnThoseBesideThem) {
  TinyAv tiny;
  RolloutConfig config = testing::tiny_av_rollout();
  const auto together = roll(tiny, config);
  config.token_budget = 1;  // each row by itself
  const auto alone = roll(tiny, config);
  for (size_t i = 0; i < together.size(); ++i) {
    for (size_t m = 0; m < 2; ++m) {
      EXPECT_TRUE(close(together[i].flows[0].streams[m].final_latent, alone[i].flows[0].streams[m].final_latent, 1e-5));
    }
  }
}

TEST(AvRollout, BadSizesAreToldByTheirKey) {
  TinyAv tiny;
  const auto refusal = [&](auto change) {
    RolloutConfig config = testing::tiny_av_rollout();
    change(config.clip);
    return testing::message_of<BadInput>([&] { roll(tiny, config); });
  };
  const std::string folder = tiny.config.model;
  EXPECT_EQ(refusal([](ClipConfig& c) { c.frames = 10; }),
            "rollout.clip.frames: expected 1 + a multiple of 8 for " + folder + ", got 10");
  EXPECT_EQ(refusal([](ClipConfig& c) { c.width = 72; }),
            "rollout.clip.width: expected a multiple of 32 from 64 on for " + folder + ", got 72");
  const auto list = testing::prompts({"nobody's"});
  EXPECT_EQ(testing::message_of<BadInput>([&] {
              RolloutEngine(*tiny.policy, testing::tiny_av_rollout(), {}, "").rollout(testing::request(list, 2));
            }),
            tiny.config.text.file + ": has no features of the prompt 'nobody's'");
}

}  // namespace
}  // namespace unigrpo::rollout

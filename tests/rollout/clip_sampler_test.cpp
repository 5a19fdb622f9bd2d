#include "rollout/clip_sampler.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>

#include "flow/shifted_grid.h"
#include "support/tensors.h"
#include "support/tiny_ltx2.h"

namespace unigrpo::rollout {
namespace {

ClipRequest request_of(const testing::TinyLtx2& tiny, const std::vector<double>& sigmas) {
  const auto in = tiny.inputs({1000, 1000}, {1000, 1000});
  return {.noise = in.latents,
          .text = {.text = in.text, .mask = in.text_mask},
          .grid = testing::kTinyClip,
          .sigmas = sigmas};
}

TEST(ClipSampler, WalksTheGridToDiffusersLatents) {
  const testing::TinyLtx2 tiny("v20");
  const auto sigmas = flow::shifted_grid(tiny.model->grid(), 4, testing::kTinyClip.video_tokens());
  const auto out = sample_clips(tiny.model->transformer(), request_of(tiny, sigmas));
  EXPECT_TRUE(testing::close(out->video, tiny.golden("sample.euler4.step3_video"), 5e-4));  // the schema's
  EXPECT_TRUE(testing::close(out->audio, tiny.golden("sample.euler4.step3_audio"), 5e-4));
}

TEST(ClipSampler, StopsBetweenSteps) {
  const testing::TinyLtx2 tiny("v20");
  const std::vector<double> sigmas = {1.0, 0.5, 0.0};
  std::atomic<int> signal = 0;
  int steps = 0;
  const auto out = sample_clips(tiny.model->transformer(), request_of(tiny, sigmas), StopToken(signal),
                                [&](const ClipStep&) { ++steps, signal = 15; });
  EXPECT_FALSE(out.has_value());
  EXPECT_EQ(steps, 1);
}

TEST(ClipSampler, GuidanceByTextNeedsATextToLeave) {
  const testing::TinyLtx2 tiny("v20");
  const std::vector<double> sigmas = {1.0, 0.0};
  ClipRequest request = request_of(tiny, sigmas);
  request.guidance.streams.audio.text_scale = 3;
  EXPECT_EQ(testing::message_of<std::invalid_argument>([&] { sample_clips(tiny.model->transformer(), request); }),
            "sample_clips: guidance by text needs a negative text");
}

}  // namespace
}  // namespace unigrpo::rollout

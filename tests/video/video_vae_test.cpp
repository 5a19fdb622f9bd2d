#include "video/video_vae.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/ltx2_tower.h"
#include "support/tensors.h"

namespace unigrpo::video {
namespace {

using testing::close;
using testing::ltx2_golden;

VideoVae open(const std::string& layout) { return testing::ltx2_tower<VideoVae>(layout, "vae", read_video_vae_config); }

class VideoVaeLayouts : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, VideoVaeLayouts, ::testing::Values("v20", "v23", "v25"));

TEST_P(VideoVaeLayouts, ValuesAreDiffusers) {
  const at::NoGradGuard no_grad;
  const VideoVae vae = open(GetParam());
  const Posterior posterior = vae.encode(ltx2_golden(GetParam(), "vae.video_u8") / 127);
  EXPECT_TRUE(close(posterior.mean, ltx2_golden(GetParam(), "vae.mean"), 5e-4));  // the schema's
  EXPECT_TRUE(close(posterior.logvar, ltx2_golden(GetParam(), "vae.logvar"), 5e-4));
  const at::Tensor out = vae.decode(ltx2_golden(GetParam(), "vae.decode_in"));
  EXPECT_TRUE(close(out.slice(3, 0, std::nullopt, 4).slice(4, 0, std::nullopt, 4),
                    ltx2_golden(GetParam(), "vae.decode_out_stride4"), 5e-4));
}

TEST(VideoVae, ACausalEncoderDoesNotSeeWhatComesLater) {
  const at::NoGradGuard no_grad;
  const VideoVae vae = open("v20");
  const at::Tensor video = ltx2_golden("v20", "vae.video_u8") / 127;
  at::Tensor changed = video.clone();
  changed.narrow(2, 9, 8).fill_(0.5);
  EXPECT_TRUE(close(vae.encode(changed).mean.narrow(2, 0, 2), vae.encode(video).mean.narrow(2, 0, 2), 1e-6));
  EXPECT_GT((vae.encode(changed).mean - vae.encode(video).mean).abs().max().item<double>(), 1e-3);
}

TEST(VideoVae, RecordingGradientsChangesNoValue) {
  const VideoVae vae = open("v23");
  const at::Tensor in = ltx2_golden("v23", "vae.decode_in");
  at::Tensor plain;
  {
    const at::NoGradGuard no_grad;
    plain = vae.decode(in);
  }
  const at::Tensor leaf = in.clone().requires_grad_();
  const at::Tensor recorded = vae.decode(leaf);
  EXPECT_TRUE(close(recorded, plain, 1e-5));
  recorded.sum().backward();
  EXPECT_TRUE(leaf.grad().isfinite().all().item<bool>());
}

TEST(VideoVae, AClipThatDoesNotDivideIsRefused) {
  const VideoVae vae = open("v20");
  EXPECT_EQ(testing::message_of<std::invalid_argument>([&] { vae.encode(at::zeros({1, 3, 16, 64, 64})); }),
            "a video of 16 frames of 64 x 64: frames must be 1 + k * 8, sides multiples of 32");
}

}  // namespace
}  // namespace unigrpo::video

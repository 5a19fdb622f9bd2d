#include "video/audio_vae.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/ltx2_tower.h"
#include "support/tensors.h"
#include "video/mel.h"

namespace unigrpo::video {
namespace {

using testing::close;
using testing::ltx2_golden;

AudioVae open(const std::string& layout) {
  return testing::ltx2_tower<AudioVae>(layout, "audio_vae", read_audio_vae_config);
}

class AudioVaeLayouts : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, AudioVaeLayouts, ::testing::Values("v20", "v23", "v25"));

TEST_P(AudioVaeLayouts, DecodesAsDiffusersFourTMinusThreeFrames) {
  const at::NoGradGuard no_grad;
  const at::Tensor in = ltx2_golden(GetParam(), "audio.decode_in");
  const at::Tensor out = open(GetParam()).decode(in);
  EXPECT_EQ(out.size(2), 4 * in.size(2) - 3);
  EXPECT_TRUE(close(out, ltx2_golden(GetParam(), "audio.decode_out"), 5e-4));  // the schema's
}

TEST(AudioVae, AWaveBecomesDiffusersLatents) {
  const at::NoGradGuard no_grad;
  for (const char* layout : {"v20", "v23"}) {
    const AudioVae vae = open(layout);
    const at::Tensor mel = log_mel(ltx2_golden(layout, "audio.wave"), {.sample_rate = vae.config().sample_rate,
                                                                       .n_fft = 256,
                                                                       .hop_length = vae.config().mel_hop_length,
                                                                       .num_bins = vae.config().mel_bins});
    EXPECT_TRUE(close(mel, ltx2_golden(layout, "audio.log_mel"), 1e-3));
    const Posterior posterior = vae.encode(ltx2_golden(layout, "audio.log_mel"));
    EXPECT_TRUE(close(posterior.mean, ltx2_golden(layout, "audio.mean"), 5e-4));
    EXPECT_TRUE(close(posterior.logvar, ltx2_golden(layout, "audio.logvar"), 5e-4));
  }
}

}  // namespace
}  // namespace unigrpo::video

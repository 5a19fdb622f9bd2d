#include "video/mel.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/tensors.h"

namespace unigrpo::video {
namespace {

TEST(Mel, ASineFillsTheBandThatHoldsIt) {
  const MelConfig config{.sample_rate = 16000, .n_fft = 1024, .hop_length = 160, .num_bins = 64};
  const at::Tensor time = at::arange(16000, at::kDouble) / 16000.0;
  const at::Tensor mel =
      log_mel((time * (2 * 3.141592653589793 * 1000.0)).sin().to(at::kFloat).view({1, 1, -1}), config);
  EXPECT_EQ(mel.sizes(), at::IntArrayRef({1, 1, 101, 64}));
  // 1 kHz is 15 on Slaney's scale, the top of 8 kHz is 15 + 27 log(8) / log(6.4): the nearest of 65 steps.
  const double top = 15 + 27 * std::log(8.0) / std::log(6.4);
  EXPECT_EQ(mel[0][0][50].argmax().item<int64_t>(), std::lround(15 * 65 / top) - 1);
}

TEST(Mel, TheBandsHaveAreaOneAndSilenceIsTheFloor) {
  const MelConfig config{.sample_rate = 16000, .n_fft = 4096, .num_bins = 32};
  const double step = 16000.0 / 4096;
  EXPECT_TRUE(testing::close(mel_bank(config).sum(0) * step, at::ones({32}), 0.01));  // a sum for an integral
  EXPECT_TRUE(testing::close(log_mel(at::zeros({5000}), config), at::full({32, 32}, std::log(1e-5)), 1e-5));
}

TEST(Mel, AWaveTooShortToReflectIsRefused) {
  EXPECT_EQ(testing::message_of<std::invalid_argument>([] { log_mel(at::zeros({512}), {.n_fft = 1024}); }),
            "log_mel: 512 samples are too few for n_fft 1024");
}

}  // namespace
}  // namespace unigrpo::video

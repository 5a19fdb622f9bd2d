#include "video/vocoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/ltx2_tower.h"
#include "support/tensors.h"

namespace unigrpo::video {
namespace {

TEST(Vocoder, WavesAreDiffusers) {
  const at::NoGradGuard no_grad;
  for (const char* layout : {"v20", "v23", "v25"}) {
    const auto vocoder = testing::ltx2_tower<Vocoder>(layout, "vocoder", read_vocoder_config);
    EXPECT_TRUE(testing::close(vocoder(testing::ltx2_golden(layout, "audio.decode_out")),
                               testing::ltx2_golden(layout, "audio.vocoder_out"), 1e-3))  // the schema's
        << layout;
  }
}

TEST(Vocoder, ExtensionTriplesTheRateAndKeepsTheLength) {
  const at::NoGradGuard no_grad;
  const auto vocoder = testing::ltx2_tower<Vocoder>("v23", "vocoder", read_vocoder_config);
  EXPECT_EQ(vocoder.config().output_rate, 48000);
  // 5 x 2 x 2 x 8 samples a frame at 16 kHz, three times as many at 48.
  EXPECT_EQ(vocoder(at::zeros({2, 2, 7, 16})).sizes(), at::IntArrayRef({2, 2, 7 * 160 * 3}));
}

}  // namespace
}  // namespace unigrpo::video

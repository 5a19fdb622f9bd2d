#include "video/latent_upsampler.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/ltx2_tower.h"
#include "support/tensors.h"

namespace unigrpo::video {
namespace {

TEST(LatentUpsampler, LatentsAreDiffusers) {
  const at::NoGradGuard no_grad;
  for (const char* layout : {"v20", "v25"}) {  // by 2; a frame at a time by 3 / 2, with its blur
    const auto upsampler =
        testing::ltx2_tower<LatentUpsampler>(layout, "latent_upsampler", read_latent_upsampler_config);
    EXPECT_TRUE(testing::close(upsampler(testing::ltx2_golden(layout, "upsampler.in")),
                               testing::ltx2_golden(layout, "upsampler.out"), 5e-4))  // the schema's
        << layout;
  }
}

}  // namespace
}  // namespace unigrpo::video

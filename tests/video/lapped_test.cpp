// The front end with an inverse: against its definition, and there and back through the vocoder's own layers.
#include "video/lapped.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "nn/weights.h"
#include "support/refusal.h"
#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::video {
namespace {

VocoderConfig inverse_config(int64_t hop, int64_t bins) {
  VocoderConfig config;
  config.generator = {.in_channels = 2 * bins,
                      .hidden_channels = 2 * bins,
                      .upsample_kernel_sizes = {2 * hop},
                      .upsample_factors = {hop},
                      .resnet_kernel_sizes = {1},
                      .resnet_dilations = {{1}},
                      .negative_slope = 1,
                      .final_act_fn = "clamp"};
  return config;
}

Vocoder inverse(const VocoderConfig& config) {
  nn::Weights weights("config.json", [&](const std::string& name, const std::vector<int64_t>& shape) {
    return lapped_vocoder_weight(config.generator, "config.json", name, shape);
  });
  return {config, weights};
}

TEST(Lapped, IsWhatItsEquationSays) {
  constexpr int64_t kHop = 8, kBins = 5, kFrames = 6;
  const at::Tensor wave = tensor::normal({3, 2, 50}, {.seed = 1});
  const at::Tensor got = lapped(wave, kFrames, kHop, kBins);
  ASSERT_EQ(got.sizes(), (std::vector<int64_t>{3, 2, kFrames, kBins}));
  for (int64_t n = 0; n < kFrames; ++n) {
    for (int64_t k = 0; k < kBins; ++k) {
      double middle = 0, side = 0;
      for (int64_t j = 0; j < 2 * kHop; ++j) {
        const int64_t i = n * kHop - kHop / 2 + j;
        if (i < 0 || i >= wave.size(2)) continue;
        const double weight = 8 * std::sqrt(2.0 / kHop) * std::sin(M_PI * (j + 0.5) / (2 * kHop)) *
                              std::cos(M_PI / kHop * (j + 0.5 + kHop / 2.0) * (k + 0.5));
        const double left = wave[1][0][i].item<double>(), right = wave[1][1][i].item<double>();
        middle += weight * (left + right) / 2;
        side += weight * (left - right) / 2;
      }
      EXPECT_NEAR(got[1][0][n][k].item<double>(), middle, 1e-4);
      EXPECT_NEAR(got[1][1][n][k].item<double>(), side, 1e-4);
    }
  }
}

TEST(Lapped, TheVocoderGivesTheWaveBack) {
  constexpr int64_t kHop = 16, kFrames = 20;
  const at::Tensor wave = tensor::normal({2, 2, kHop * kFrames}, {.seed = 2}) * 0.1;
  const at::Tensor back = inverse(inverse_config(kHop, kHop))(lapped(wave, kFrames, kHop, kHop));
  ASSERT_EQ(back.sizes(), wave.sizes());
  // All but half a hop at the ends, where a frame is missing.
  const int64_t inner = kHop * kFrames - kHop;
  EXPECT_TRUE(testing::close(back.narrow(2, kHop / 2, inner), wave.narrow(2, kHop / 2, inner), 1e-5));
}

TEST(Lapped, OfFewerBinsTheLowTonesAreLeft) {
  constexpr int64_t kHop = 80, kFrames = 50, kBins = 32;  // up to 1,600 Hz of 4,000
  const at::Tensor time = at::arange(kHop * kFrames, at::kFloat) / 8000;
  const auto heard = [&](double hertz) {
    const at::Tensor tone = (time * (2 * M_PI * hertz)).sin().view({1, 1, -1}).expand({1, 2, -1}) * 0.5;
    const at::Tensor back = inverse(inverse_config(kHop, kBins))(lapped(tone, kFrames, kHop, kBins));
    return std::pair((back - tone).narrow(2, 100, 3800).square().mean().item<double>() / 0.125,
                     back.narrow(2, 100, 3800).square().mean().item<double>() / 0.125);
  };
  EXPECT_LT(heard(440).first, 1e-3);
  EXPECT_LT(heard(3000).second, 1e-3);
}

TEST(Lapped, OtherVocodersAreRefused) {
  const auto refused = [](auto change) {
    VocoderConfig config = inverse_config(8, 8);
    change(config.generator);
    return testing::refusal([&] { inverse(config); });
  };
  EXPECT_EQ(refused([](GeneratorConfig&) {}), "accepted");
  const std::string expected = "config.json: cannot be the inverse of the lapped front end";
  EXPECT_TRUE(refused([](GeneratorConfig& c) { c.negative_slope = 0.1; }).starts_with(expected));
  EXPECT_TRUE(refused([](GeneratorConfig& c) { c.upsample_kernel_sizes = {12}; }).starts_with(expected));
  EXPECT_TRUE(refused([](GeneratorConfig& c) { c.final_act_fn = "tanh"; }).starts_with(expected));
}

}  // namespace
}  // namespace unigrpo::video

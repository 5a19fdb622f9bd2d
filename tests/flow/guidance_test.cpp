#include "flow/guidance.h"

#include <stdexcept>

#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::flow {
namespace {

using unigrpo::testing::close;

at::Tensor draw(uint64_t seed) { return tensor::normal({3, 6, 4}, {.seed = seed}); }

TEST(Guidance, ActsWithinItsInterval) {
  const GuidanceConfig config{.text_scale = 4, .interval_low = 0.4, .interval_high = 1.0};
  EXPECT_TRUE(guidance_acts(config, 1.0));
  EXPECT_FALSE(guidance_acts(config, 0.4));  // low < t
  EXPECT_FALSE(guidance_acts({.text_scale = 1}, 0.9));
}

TEST(Guidance, ScaleOneIsTheConditionalVelocity) {
  EXPECT_TRUE(at::equal(guide({.text_scale = 1}, {draw(1), {}, {}}), draw(1)));
}

TEST(Guidance, WithoutRenormalisationExtrapolates) {
  const GuidanceConfig config{.text_scale = 4, .renorm_min = 1.0};
  EXPECT_TRUE(close(guide(config, {draw(1), draw(2)}), draw(2) + 4 * (draw(1) - draw(2)), 1e-5));
}

TEST(Guidance, NeverLengthensTheVelocity) {
  for (const Renorm renorm : {Renorm::global, Renorm::channel, Renorm::text_channel}) {
    const at::Tensor v = guide({.text_scale = 4, .renorm = renorm}, {draw(1), draw(2)});
    const auto norm = [&](const at::Tensor& velocity) {
      return renorm == Renorm::global ? velocity.flatten(1).norm(2, 1) : velocity.norm(2, -1);
    };
    EXPECT_TRUE((norm(v) <= norm(draw(1)) + 1e-4).all().item<bool>()) << enum_name(renorm);
  }
}

TEST(Guidance, TheGlobalNormIsASamplesOwn) {
  const GuidanceConfig config{.text_scale = 4};
  const at::Tensor all = guide(config, {draw(1), draw(2)});
  const at::Tensor alone = guide(config, {draw(1).narrow(0, 1, 1), draw(2).narrow(0, 1, 1)});
  EXPECT_TRUE(close(all.narrow(0, 1, 1), alone, 1e-6));
}

TEST(Guidance, TheImageScaleFollowsTheText) {
  const GuidanceConfig config{.text_scale = 4, .image_scale = 2, .renorm_min = 1.0};
  const at::Tensor text = draw(2) + 4 * (draw(1) - draw(2));
  EXPECT_TRUE(close(guide(config, {draw(1), draw(2), draw(3)}), draw(3) + 2 * (text - draw(3)), 1e-4));
  EXPECT_THROW(guide(config, {draw(1), draw(2)}), std::invalid_argument);
}

}  // namespace
}  // namespace unigrpo::flow

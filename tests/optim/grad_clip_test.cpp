#include "optim/grad_clip.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/fault.h"

namespace unigrpo::optim {
namespace {

NamedParameters with_grads(const at::Tensor& a, const at::Tensor& b) {
  NamedParameters parameters = {{"a", at::zeros_like(a)}, {"b", at::zeros_like(b)}, {"unused", at::zeros({3})}};
  parameters[0].tensor.set_requires_grad(true).mutable_grad() = a;
  parameters[1].tensor.set_requires_grad(true).mutable_grad() = b;
  return parameters;
}

TEST(GradClip, MeasuresTheGlobalNormAndScalesDown) {
  const NamedParameters parameters = with_grads(at::full({4}, 3.0F), at::full({4}, 4.0F, at::kBFloat16));
  GradClip clip({});
  const GradNorm result = clip.check(parameters);
  EXPECT_DOUBLE_EQ(result.norm, 10.0);
  EXPECT_NEAR(result.scale, 0.1, 1e-6);
  EXPECT_FALSE(result.skip);
  OptimConfig off;
  off.max_grad_norm = 0;
  EXPECT_EQ(GradClip(off).check(parameters).scale, 1.0);
  off.max_grad_norm = 11;
  EXPECT_EQ(GradClip(off).check(parameters).scale, 1.0);
}

TEST(GradClip, DoesNotOverflowAndDoesNotDependOnThreads) {
  const NamedParameters parameters = with_grads(at::full({70000}, 1e30F), at::arange(100001).to(at::kFloat));
  const int threads = at::get_num_threads();
  GradClip clip({});
  at::set_num_threads(1);
  const double one = clip.check(parameters).norm;
  at::set_num_threads(3);
  const double three = clip.check(parameters).norm;
  at::set_num_threads(threads);
  EXPECT_EQ(one, three);
  EXPECT_NEAR(one / (1e30 * std::sqrt(70000.0)), 1.0, 1e-6);
}

TEST(GradClip, SkipsWhatIsNotFiniteAndStopsAfterTooManyInARow) {
  const at::Tensor bad = at::zeros({5});
  bad[3] = std::numeric_limits<float>::quiet_NaN();
  const NamedParameters broken = with_grads(at::ones({2}), bad);
  const NamedParameters sound = with_grads(at::ones({2}), at::ones({2}));
  OptimConfig config;
  config.max_skipped = 3;
  GradClip clip(config);
  for (int i = 0; i < 2; ++i) {
    const GradNorm result = clip.check(broken);
    EXPECT_TRUE(result.skip);
    EXPECT_EQ(result.nonfinite, "b");
  }
  EXPECT_FALSE(clip.check(sound).skip);
  EXPECT_EQ(clip.skipped(), 2);
  EXPECT_EQ(clip.skipped_in_a_row(), 0);
  clip.check(broken);
  clip.check(broken);
  try {
    clip.check(broken);
    FAIL();
  } catch (const RuntimeFailure& error) {
    EXPECT_NE(std::string(error.what()).find("3 steps in a row"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("'b'"), std::string::npos);
  }
}

TEST(GradClip, StopsAtOnceWhereTheRecipeSaysSo) {
  OptimConfig config;
  config.on_nonfinite = OnNonfinite::stop;
  GradClip clip(config);
  EXPECT_THROW(clip.check(with_grads(at::full({2}, std::numeric_limits<float>::infinity()), at::ones({2}))),
               RuntimeFailure);
}

TEST(GradClip, ActsOutANanForTests) {
  const NamedParameters parameters = with_grads(at::ones({2, 2}), at::ones({2}));
  GradClip clip({});
  fault::configure("grad.reduced:2=nan");
  EXPECT_FALSE(clip.check(parameters).skip);
  EXPECT_EQ(clip.check(parameters).nonfinite, "a");
  fault::configure("");
}

}  // namespace
}  // namespace unigrpo::optim

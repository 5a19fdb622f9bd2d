#include "kernels/sde_step.h"

#include <ATen/Parallel.h>

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::close;
using unigrpo::testing::gradient_is_right;

struct Inputs {
  at::Tensor x, velocity, noise, coefficients;
};

Inputs inputs(at::IntArrayRef shape, at::ScalarType type) {
  at::manual_seed(11);
  const auto options = at::TensorOptions().dtype(type);
  const int64_t rows = shape[0];
  return {at::randn(shape, options), at::randn(shape, options), at::randn(shape, options),
          at::stack({at::rand({rows}, at::kDouble) + 0.5, -at::rand({rows}, at::kDouble) - 0.1,
                     at::rand({rows}, at::kDouble) + 0.1},
                    1)};
}

TEST(SdeStepKernel, IsTheReferenceOverOddSizes) {
  for (const auto& shape : {std::vector<int64_t>{1, 1, 1}, {3, 7, 5}, {2, 33, 64}, {5, 1, 17}, {4}}) {
    for (const bool gaussian : {true, false}) {
      const Inputs in = inputs(shape, at::kFloat);
      const auto wide = [](const at::Tensor& tensor) { return tensor.to(at::kDouble); };
      const auto [x_next, mean, log_prob] = sde_step(in.x, in.velocity, in.noise, in.coefficients, gaussian);
      const auto [x_want, mean_want, unused] =
          sde_step_reference(wide(in.x), wide(in.velocity), wide(in.noise), in.coefficients, gaussian);
      EXPECT_TRUE(close(mean, mean_want, 1e-6, 1e-6));  // float32
      EXPECT_TRUE(close(x_next, x_want, 1e-6, 1e-6));   // float32
      // std >= 0.1 lifts float32's rounding of x_next by up to 10.
      EXPECT_TRUE(close(log_prob,
                        sde_log_prob_reference(wide(in.x), wide(in.velocity), wide(x_next), in.coefficients, gaussian),
                        2e-5, 1e-5));
    }
  }
}

TEST(SdeStepKernel, LogProbOfTheSampledLatentIsBitEqual) {
  const Inputs in = inputs({4, 33, 16}, at::kFloat);
  for (const bool gaussian : {true, false}) {
    const auto [x_next, mean, log_prob] = sde_step(in.x, in.velocity, in.noise, in.coefficients, gaussian);
    EXPECT_TRUE(at::equal(log_prob, sde_log_prob(in.x, in.velocity, x_next, in.coefficients, gaussian)));
  }
}

TEST(SdeStepKernel, ARowDoesNotDependOnTheBatchOrTheThreads) {
  const Inputs in = inputs({6, 200, 64}, at::kFloat);
  const auto [x_next, mean, log_prob] = sde_step(in.x, in.velocity, in.noise, in.coefficients, true);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  for (int64_t row = 0; row < 6; ++row) {
    const auto one = [&](const at::Tensor& tensor) { return tensor.narrow(0, row, 1); };
    const auto [x_one, mean_one, log_prob_one] =
        sde_step(one(in.x), one(in.velocity), one(in.noise), one(in.coefficients), true);
    EXPECT_TRUE(at::equal(x_one, one(x_next)));
    EXPECT_TRUE(at::equal(log_prob_one, one(log_prob)));
  }
  at::set_num_threads(threads);
}

TEST(SdeStepKernel, ViewsAndEmptyBatchesAreFine) {
  const Inputs in = inputs({3, 4, 5}, at::kFloat);
  const at::Tensor strided = in.x.transpose(1, 2).contiguous().transpose(1, 2);
  const auto [x_next, mean, log_prob] = sde_step(strided, in.velocity, in.noise, in.coefficients, true);
  EXPECT_TRUE(at::equal(x_next, std::get<0>(sde_step(in.x, in.velocity, in.noise, in.coefficients, true))));
  const Inputs none = inputs({0, 4, 5}, at::kFloat);
  const auto [x_none, mean_none, log_prob_none] = sde_step(none.x, none.velocity, none.noise, none.coefficients, true);
  EXPECT_EQ(x_none.sizes(), at::IntArrayRef({0, 4, 5}));
  EXPECT_EQ(log_prob_none.numel(), 0);
}

TEST(SdeStepKernel, TheGradientInTheVelocityIsRight) {
  const Inputs in = inputs({2, 3, 4}, at::kDouble);
  for (const bool gaussian : {true, false}) {
    EXPECT_TRUE(gradient_is_right(
        [&](const at::Tensor& v) { return sde_log_prob(in.x, v, in.noise, in.coefficients, gaussian); }, in.velocity));
  }
}

TEST(SdeStepKernel, RefusesShapesAndTypesThatDiffer) {
  const Inputs in = inputs({2, 3, 4}, at::kFloat);
  EXPECT_THROW(sde_step(in.x, in.velocity.narrow(2, 0, 3), in.noise, in.coefficients, true), c10::Error);
  EXPECT_THROW(sde_step(in.x, in.velocity, in.noise.to(at::kDouble), in.coefficients, true), c10::Error);
  EXPECT_THROW(sde_step(in.x, in.velocity, in.noise, in.coefficients.to(at::kFloat), true), c10::Error);
}

}  // namespace
}  // namespace unigrpo::kernels

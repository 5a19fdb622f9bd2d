#include "nn/recompute.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/tensors.h"

namespace unigrpo::nn {
namespace {

using testing::close;

TEST(Recompute, GivesTheSameValuesAndGradientsAndRunsAgainInTheBackwardPass) {
  const at::Tensor weight = at::randn({4, 4}, at::kDouble).requires_grad_();
  const at::Tensor a = at::randn({3, 4}, at::kDouble).requires_grad_(), b = at::randn({2, 4}, at::kDouble);
  int calls = 0;
  const PairStep step = [&](const at::Tensor& x, const at::Tensor& y) {
    ++calls;
    return std::pair(at::tanh(x.matmul(weight)) + y.sum(), at::sin(y.matmul(weight)) * x.mean());
  };
  auto gradients = [&](bool again) {
    weight.mutable_grad().reset();
    a.mutable_grad().reset();
    auto [x, y] = again ? recompute(step, a, b) : step(a, b);
    std::tie(x, y) = again ? recompute(step, x, y) : step(x, y);
    (x.square().sum() + 3 * y.sum()).backward();
    return std::pair(weight.grad().clone(), a.grad().clone());
  };
  const auto plain = gradients(false);
  calls = 0;
  const auto twice = gradients(true);
  EXPECT_EQ(calls, 4);
  EXPECT_TRUE(close(twice.first, plain.first, 1e-12));
  EXPECT_TRUE(close(twice.second, plain.second, 1e-12));
}

TEST(Recompute, TrainsTheLeavesInsideWhereTheInputsNeedNoGradient) {
  const at::Tensor weight = at::randn({4, 4}).requires_grad_();
  const PairStep step = [&](const at::Tensor& x, const at::Tensor& y) { return std::pair(x.matmul(weight), y); };
  const auto [x, y] = recompute(step, at::ones({2, 4}), at::ones({0, 4}));
  EXPECT_TRUE(x.requires_grad());
  x.sum().backward();
  EXPECT_TRUE(close(weight.grad(), at::full({4, 4}, 2.0), 1e-6));
}

TEST(Recompute, WithoutGradientsItIsTheStep) {
  const at::NoGradGuard no_grad;
  int calls = 0;
  const auto out = recompute(
      [&](const at::Tensor& x, const at::Tensor& y) {
        ++calls;
        return std::pair(x, y);
      },
      at::ones({1}).requires_grad_(), at::ones({1}));
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(out.first.grad_fn());
}

}  // namespace
}  // namespace unigrpo::nn

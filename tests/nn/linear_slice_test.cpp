#include "nn/linear_slice.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/tensors.h"

namespace unigrpo::nn {
namespace {

using testing::close;

Linear made(bool bias) {
  static const bool on = true;
  Linear linear{.name = "layer", .weight = at::randn({6, 4}).requires_grad_(), .bias = {}, .lora = nullptr};
  if (bias) linear.bias = at::randn({6}).requires_grad_();
  linear.lora_enabled = &on;
  linear.lora = std::make_shared<LoraAdapter>(
      LoraAdapter{.a = at::randn({2, 4}).requires_grad_(), .b = at::randn({6, 2}).requires_grad_(), .scale = 0.5});
  return linear;
}

std::vector<at::Tensor> gradients(const Linear& linear) {
  std::vector<at::Tensor> all;
  for (const at::Tensor& leaf : {linear.weight, linear.bias, linear.lora->a, linear.lora->b}) {
    if (!leaf.defined()) continue;
    all.push_back(leaf.grad().clone());
    leaf.mutable_grad().reset();
  }
  return all;
}

void expect_same(const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(close(got[i], want[i], 1e-5)) << i;
}

TEST(LinearSlice, OutputsEndToEndAreTheLayers) {
  const Linear linear = made(/*bias=*/true);
  const at::Tensor x = at::randn({3, 4}), upstream = at::randn({3, 6});
  (linear(x) * upstream).sum().backward();
  const auto want = gradients(linear);
  const at::Tensor parts = at::cat({output_slice(linear, 0, 2)(x), output_slice(linear, 1, 2)(x)}, 1);
  EXPECT_TRUE(close(parts, linear(x), 1e-5));
  (parts * upstream).sum().backward();
  expect_same(gradients(linear), want);
}

TEST(LinearSlice, InputsAddUpToTheLayer) {
  const Linear linear = made(/*bias=*/false);
  const at::Tensor x = at::randn({3, 4}), upstream = at::randn({3, 6});
  (linear(x) * upstream).sum().backward();
  const auto want = gradients(linear);
  const at::Tensor sum = input_slice(linear, 0, 2)(x.narrow(1, 0, 2)) + input_slice(linear, 1, 2)(x.narrow(1, 2, 2));
  EXPECT_TRUE(close(sum, linear(x), 1e-5));
  (sum * upstream).sum().backward();
  expect_same(gradients(linear), want);
  EXPECT_THROW(input_slice(made(/*bias=*/true), 0, 2), std::invalid_argument);
}

TEST(LinearSlice, DropsWhatTheLayerDrops) {
  const Linear linear = made(/*bias=*/false);
  const LoraDropout dropout{.rate = 0.5, .key = {.seed = 3, .purpose = Purpose::dropout}, .rows = at::arange(3)};
  const at::Tensor x = at::randn({3, 4}), want = linear(x, dropout);
  EXPECT_FALSE(close(linear(x), want, 1e-5));
  EXPECT_TRUE(
      close(at::cat({output_slice(linear, 0, 2)(x, dropout), output_slice(linear, 1, 2)(x, dropout)}, 1), want, 1e-5));
  EXPECT_TRUE(close(
      input_slice(linear, 0, 2)(x.narrow(1, 0, 2), dropout) + input_slice(linear, 1, 2)(x.narrow(1, 2, 2), dropout),
      want, 1e-5));
}

}  // namespace
}  // namespace unigrpo::nn

#include "kernels/linear.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <utility>
#include <vector>

#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::kernels {
namespace {

using testing::close;

void expect_plain_linear(const std::vector<int64_t>& lead, int64_t in, int64_t out, bool with_bias) {
  std::vector<int64_t> shape = lead;
  shape.push_back(in);
  const at::Tensor x = tensor::normal(shape, {.seed = 1}).requires_grad_();
  const at::Tensor weight = tensor::normal({out, in}, {.seed = 2}).requires_grad_();
  const at::Tensor bias = with_bias ? tensor::normal({out}, {.seed = 3}).requires_grad_() : at::Tensor();
  const at::Tensor got = linear(x, weight, bias), want = linear_reference(x, weight, bias);
  const double tolerance = 1e-5 * std::sqrt(static_cast<double>(in));  // float32, `in` summands
  ASSERT_TRUE(close(got, want, tolerance));
  const at::Tensor upstream = tensor::normal(want.sizes(), {.seed = 4});
  std::vector<at::Tensor> inputs = {x, weight};
  if (with_bias) inputs.push_back(bias);
  const auto grads = torch::autograd::grad({(got * upstream).sum()}, inputs);
  const auto want_grads = torch::autograd::grad({(want * upstream).sum()}, inputs);
  for (size_t i = 0; i < inputs.size(); ++i) EXPECT_TRUE(close(grads[i], want_grads[i], 2e-4, 1e-4)) << i;
}

TEST(Linear, ValuesAndGradientsAreThoseOfThePlainProduct) {
  expect_plain_linear({7}, 33, 5, true);
  expect_plain_linear({1}, 16, 16, false);
  expect_plain_linear({3, 4}, 24, 40, true);
  expect_plain_linear({260}, 64, 160, false);
  expect_plain_linear({0}, 8, 4, true);
  expect_plain_linear({1}, 1, 1, true);
}

TEST(Linear, OfASmallModelHasTheSameBitsForFewRowsAsForMany) {
  if (!at::get_cpu_capability().starts_with("AVX")) GTEST_SKIP() << "not known for other instructions";
  for (const auto& [in, out] : {std::pair(128, 384), std::pair(384, 128), std::pair(128, 160)}) {
    const at::Tensor x = tensor::normal({300, in}, {.seed = 1}), weight = tensor::normal({out, in}, {.seed = 2});
    const at::Tensor bias = tensor::normal({out}, {.seed = 3}), all = linear(x, weight, bias);
    for (int64_t rows = 1; rows < 80; ++rows) {
      EXPECT_TRUE(at::equal(linear(x.narrow(0, 7, rows), weight, bias), all.narrow(0, 7, rows)))
          << rows << " rows of " << in;
    }
  }
}

TEST(Linear, ReadsStridedInputAndStridedGradients) {
  const at::Tensor x = tensor::normal({16, 6}, {.seed = 5}).t().detach().requires_grad_();  // [6, 16]
  const at::Tensor weight = tensor::normal({8, 16}, {.seed = 6}).requires_grad_();
  const at::Tensor got = linear(x, weight, at::Tensor()), want = at::mm(x, weight.t());
  EXPECT_TRUE(close(got, want, 1e-5));
  const auto grads = torch::autograd::grad({got.sum()}, {x, weight});  // the gradient has strides of 0
  const auto want_grads = torch::autograd::grad({want.sum()}, {x, weight});
  EXPECT_TRUE(close(grads[0], want_grads[0], 1e-5));
  EXPECT_TRUE(close(grads[1], want_grads[1], 1e-5));
}

TEST(Linear, AFrozenWeightStillPassesTheGradientOn) {
  const at::Tensor x = tensor::normal({4, 8}, {.seed = 7}).requires_grad_();
  const at::Tensor weight = tensor::normal({3, 8}, {.seed = 8});
  const at::Tensor grad = torch::autograd::grad({linear(x, weight, at::Tensor()).sum()}, {x}).at(0);
  EXPECT_TRUE(close(grad, weight.sum(0).expand({4, 8}), 1e-5));
}

}  // namespace
}  // namespace unigrpo::kernels

#include "kernels/rms_norm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::kernels {
namespace {

using testing::close;

class RmsNormShapes : public ::testing::TestWithParam<std::vector<int64_t>> {};

TEST_P(RmsNormShapes, ValuesAndGradientsAreThoseOfTheReference) {
  const std::vector<int64_t> shape = GetParam();
  const at::Tensor x = (tensor::normal(shape, {.seed = 1}) * 3).requires_grad_();
  const at::Tensor weight = tensor::normal({shape.back()}, {.seed = 2}).requires_grad_();
  const at::Tensor upstream = tensor::normal(shape, {.seed = 3});
  const at::Tensor y = rms_norm(x, weight, 1e-6);
  const auto got = torch::autograd::grad({(y * upstream).sum()}, {x, weight});
  const at::Tensor xd = x.detach().to(at::kDouble).requires_grad_();
  const at::Tensor wd = weight.detach().to(at::kDouble).requires_grad_();
  const at::Tensor want = rms_norm_reference(xd, wd, 1e-6);
  const auto want_grads = torch::autograd::grad({(want * upstream).sum()}, {xd, wd});
  EXPECT_TRUE(close(y, want, 2e-6, 2e-6));  // float32, up to 1000 summands
  EXPECT_TRUE(close(got[0], want_grads[0], 5e-6, 1e-5));
  EXPECT_TRUE(close(got[1], want_grads[1], 2e-4, 1e-5));  // a sum over up to 1300 rows
}

INSTANTIATE_TEST_SUITE_P(OddAndEven, RmsNormShapes,
                         ::testing::Values(std::vector<int64_t>{1, 1}, std::vector<int64_t>{7, 33},
                                           std::vector<int64_t>{3, 5, 4, 16}, std::vector<int64_t>{1300, 64},
                                           std::vector<int64_t>{2, 1000}));

TEST(RmsNorm, ReadsStridedInputAndStridedGradients) {
  const at::Tensor base = tensor::normal({16, 12}, {.seed = 4});
  const at::Tensor x = base.t().detach().requires_grad_();  // [12, 16], column-major
  const at::Tensor weight = tensor::normal({16}, {.seed = 5});
  const at::Tensor y = rms_norm(x, weight, 1e-6);
  EXPECT_TRUE(close(y, rms_norm_reference(x.to(at::kDouble), weight.to(at::kDouble), 1e-6), 2e-6));
  // expand() gives the backward a gradient with strides of 0.
  const at::Tensor got = torch::autograd::grad({y.sum()}, {x}).at(0);
  const at::Tensor xd = x.detach().to(at::kDouble).requires_grad_();
  EXPECT_TRUE(close(
      got, torch::autograd::grad({rms_norm_reference(xd, weight.to(at::kDouble), 1e-6).sum()}, {xd}).at(0), 5e-6));
}

TEST(RmsNorm, KeepsTheDtypeOfItsInput) {
  const at::Tensor x = tensor::normal({5, 32}, {.seed = 6});
  const at::Tensor weight = at::ones({32});
  const at::Tensor y = rms_norm(x.to(at::kBFloat16), weight.to(at::kBFloat16), 1e-6);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(close(y, rms_norm_reference(x.to(at::kDouble), weight.to(at::kDouble), 1e-6),
                    0.04));  // bf16 keeps 8 bits, values up to 4
}

TEST(RmsNorm, NoRowsGiveNoRows) {
  const at::Tensor x = at::empty({0, 8}).requires_grad_();
  const at::Tensor weight = at::ones({8}).requires_grad_();
  const at::Tensor y = rms_norm(x, weight, 1e-6);
  EXPECT_EQ(y.sizes(), (at::IntArrayRef{0, 8}));
  EXPECT_TRUE(close(torch::autograd::grad({y.sum()}, {weight}).at(0), at::zeros({8}), 0));
}

TEST(RmsNorm, AZeroRowStaysZero) {
  EXPECT_TRUE(close(rms_norm(at::zeros({2, 8}), at::ones({8}), 1e-6), at::zeros({2, 8}), 0));
}

}  // namespace
}  // namespace unigrpo::kernels

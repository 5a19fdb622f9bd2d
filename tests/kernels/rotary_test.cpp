#include "kernels/rotary.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <vector>

#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::kernels {
namespace {

using testing::close;

/// The definition, in float64.
at::Tensor plain(const at::Tensor& x, const at::Tensor& positions, double theta) {
  const int64_t half = x.size(2) / 2;
  const at::Tensor frequency = at::pow(theta, -at::arange(half, at::kDouble) / static_cast<double>(half));
  const at::Tensor angle = (positions.to(at::kDouble).unsqueeze(1) * frequency).unsqueeze(1);  // [T, 1, Dh / 2]
  const at::Tensor a = x.to(at::kDouble).narrow(2, 0, half), b = x.to(at::kDouble).narrow(2, half, half);
  return at::cat({a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()}, 2);
}

TEST(Rotary, ValuesAndGradientsAreThoseOfTheDefinition) {
  const at::Tensor positions = at::tensor(std::vector<int64_t>{0, 1, 2, 2, 2, 3, 40, 700}, at::kLong);
  for (const int64_t dim : {2, 6, 16}) {
    const at::Tensor x = tensor::normal({8, 3, dim}, {.seed = 1}).requires_grad_();
    const at::Tensor upstream = tensor::normal({8, 3, dim}, {.seed = 2});
    const at::Tensor y = apply_rotary(x, rotary_table(positions, dim, 1e4));
    const at::Tensor got = torch::autograd::grad({(y * upstream).sum()}, {x}).at(0);
    const at::Tensor xd = x.detach().to(at::kDouble).requires_grad_();
    const at::Tensor want = plain(xd, positions, 1e4);
    // An angle of 700 rad in float32 is known to 3e-5.
    EXPECT_TRUE(close(y, want, 2e-4)) << dim;
    EXPECT_TRUE(close(got, torch::autograd::grad({(want * upstream).sum()}, {xd}).at(0), 2e-4)) << dim;
    EXPECT_TRUE(close(y, apply_rotary_reference(x, rotary_table(positions, dim, 1e4)), 1e-6)) << dim;
  }
}

TEST(Rotary, PositionZeroTurnsNothingAndLengthsStay) {
  const at::Tensor x = tensor::normal({4, 2, 8}, {.seed = 3});
  EXPECT_TRUE(close(apply_rotary(x, rotary_table(at::zeros({4}, at::kLong), 8, 1e6)), x, 0));
  const at::Tensor turned = apply_rotary(x, rotary_table(at::arange(4, at::kLong) * 17, 8, 1e6));
  EXPECT_TRUE(close(turned.norm(2, -1), x.norm(2, -1), 1e-6));
}

TEST(Rotary, ScoresDependOnTheDistanceAlone) {
  const at::Tensor q = tensor::normal({1, 1, 16}, {.seed = 4}), k = tensor::normal({1, 1, 16}, {.seed = 5});
  auto score = [&](int64_t i, int64_t j) {
    auto at_position = [](int64_t p) { return rotary_table(at::full({1}, p, at::kLong), 16, 1e4); };
    return (apply_rotary(q, at_position(i)) * apply_rotary(k, at_position(j))).sum().item<double>();
  };
  EXPECT_NEAR(score(9, 4), score(105, 100), 1e-4);  // float32 angles up to 105 rad
}

TEST(Rotary, ReadsStridedInput) {
  const at::Tensor x = tensor::normal({3, 5, 8}, {.seed = 6}).transpose(0, 1);  // [5, 3, 8]
  const RotaryTable table = rotary_table(at::arange(5, at::kLong), 8, 1e4);
  EXPECT_TRUE(close(apply_rotary(x, table), apply_rotary(x.contiguous(), table), 0));
}

TEST(Rotary, OtherDtypesGoTheSameWay) {
  const at::Tensor x = tensor::normal({6, 2, 8}, {.seed = 7});
  const RotaryTable table = rotary_table(at::arange(6, at::kLong), 8, 1e4);
  const at::Tensor y = apply_rotary(x.to(at::kBFloat16), table);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(close(y, apply_rotary(x, table), 0.05));  // bf16 keeps 8 bits, values up to 4
}

}  // namespace
}  // namespace unigrpo::kernels

#include "nn/patch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/tensors.h"
#include "tensor/rng.h"

namespace unigrpo::nn {
namespace {

using testing::close;

TEST(Patch, UnpatchifyUndoesPatchify) {
  for (const int64_t patch : {1, 2, 3}) {
    const at::Tensor map = tensor::normal({2, 5, 4 * patch, 3 * patch}, {.seed = 1});
    const at::Tensor tokens = patchify(map, patch);
    EXPECT_EQ(tokens.sizes(), (at::IntArrayRef{2, 12, patch * patch * 5}));
    EXPECT_TRUE(close(unpatchify(tokens, 4, 3, patch), map, 0)) << patch;
  }
}

TEST(Patch, ValuesOfAPatchRunByRowThenColumnThenChannel) {
  // value = 100 channel + 10 row + column
  const at::Tensor map =
      at::arange(2).view({1, 2, 1, 1}) * 100 + at::arange(4).view({1, 1, 4, 1}) * 10 + at::arange(6).view({1, 1, 1, 6});
  const at::Tensor tokens = patchify(map, 2);
  const std::vector<int64_t> want = {22, 122, 23, 123, 32, 132, 33, 133};  // row 1, column 1 of a 2 x 3 grid
  EXPECT_TRUE(close(tokens[0][1 * 3 + 1], at::tensor(want, at::kLong), 0));
}

TEST(Patch, PositionIdsCountInTheWholeTable) {
  EXPECT_TRUE(close(grid_position_ids(2, 3, 8), at::tensor(std::vector<int64_t>{0, 1, 2, 8, 9, 10}, at::kLong), 0));
}

TEST(Patch, SincosTableEncodesColumnThenRow) {
  const at::Tensor table = sincos_position_table(4, 8);
  ASSERT_EQ(table.sizes(), (at::IntArrayRef{16, 8}));
  const double row = 3, column = 2;
  const std::vector<double> frequency = {1.0, 0.01};  // 10000^(-i / 2)
  for (int64_t i = 0; i < 2; ++i) {
    EXPECT_NEAR(table[14][i].item<double>(), std::sin(column * frequency[i]), 1e-6);
    EXPECT_NEAR(table[14][2 + i].item<double>(), std::cos(column * frequency[i]), 1e-6);
    EXPECT_NEAR(table[14][4 + i].item<double>(), std::sin(row * frequency[i]), 1e-6);
    EXPECT_NEAR(table[14][6 + i].item<double>(), std::cos(row * frequency[i]), 1e-6);
  }
}

TEST(Patch, TimestepFeaturesAreCosinesThenSines) {
  const at::Tensor features = timestep_features(at::tensor(std::vector<float>{0.0F, 0.5F}), 6);
  ASSERT_EQ(features.sizes(), (at::IntArrayRef{2, 6}));
  for (int64_t i = 0; i < 3; ++i) {
    const double angle = 0.5 * std::pow(10000.0, -static_cast<double>(i) / 3.0);
    EXPECT_EQ(features[0][i].item<double>(), 1);
    EXPECT_EQ(features[0][3 + i].item<double>(), 0);
    EXPECT_NEAR(features[1][i].item<double>(), std::cos(angle), 1e-6);
    EXPECT_NEAR(features[1][3 + i].item<double>(), std::sin(angle), 1e-6);
  }
}

}  // namespace
}  // namespace unigrpo::nn

#include "tensor/shape.h"

#include <stdexcept>

#include "support/tensors.h"

namespace unigrpo::tensor {
namespace {

using unigrpo::testing::message_of;

TEST(CheckShape, AcceptsAnySizeWhereTheAxisIsMinusOne) {
  EXPECT_NO_THROW(check_shape(at::zeros({4, 9}), {4, -1}, "log_probs [N, T]"));
  EXPECT_NO_THROW(check_shape(at::zeros({}), {}, "loss"));
}

TEST(CheckShape, ShowsBothSides) {
  const auto text = [](const at::Tensor& tensor) {
    return message_of<std::invalid_argument>([&] { check_shape(tensor, {4, -1}, "log_probs [N, T]"); });
  };
  EXPECT_EQ(text(at::zeros({4, 9, 1})), "log_probs [N, T] has shape [4, 9, 1], expected [4, *]");
  EXPECT_EQ(text(at::zeros({3, 9})), "log_probs [N, T] has shape [3, 9], expected [4, *]");
  EXPECT_EQ(text(at::Tensor()), "log_probs [N, T] is undefined, expected [4, *]");
}

TEST(CheckShape, TwoTensorsMustAgree) {
  const auto text = message_of<std::invalid_argument>(
      [] { check_same_shape(at::zeros({2, 3}), "x", at::zeros({2, 4}), "velocity"); });
  EXPECT_EQ(text, "x has shape [2, 3], but velocity has [2, 4]");
}

TEST(AtLeastFloat32, PromotesLowerPrecisionAndKeepsFloat64) {
  EXPECT_EQ(at_least_float32(at::zeros({1}, at::kBFloat16)).scalar_type(), at::kFloat);
  EXPECT_EQ(at_least_float32(at::zeros({1}, at::kDouble)).scalar_type(), at::kDouble);
}

}  // namespace
}  // namespace unigrpo::tensor

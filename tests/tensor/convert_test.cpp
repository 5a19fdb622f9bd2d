#include "tensor/convert.h"

#include <array>
#include <stdexcept>

#include "support/tensors.h"

namespace unigrpo::tensor {
namespace {

using unigrpo::testing::message_of;

TEST(Convert, EveryTypeMakesTheRoundTrip) {
  for (const auto type : {at::kBool, at::kByte, at::kChar, at::kShort, at::kInt, at::kLong,
                          at::kHalf, at::kBFloat16, at::kFloat, at::kDouble}) {
    const at::Tensor tensor = at::arange(-3, 3, at::kInt).to(type).view({2, 3});
    const at::Tensor back = to_tensor(to_view(tensor, "t"));
    EXPECT_EQ(back.scalar_type(), type);
    EXPECT_TRUE(at::equal(back, tensor)) << at::toString(type);
  }
}

TEST(Convert, CopiesAndConverts) {
  at::Tensor source = at::tensor({1.5, -2.0}, at::kFloat);
  const at::Tensor copy = to_tensor(to_view(source, "t"), at::kDouble);
  source.zero_();
  EXPECT_EQ(copy.scalar_type(), at::kDouble);
  EXPECT_TRUE(at::equal(copy, at::tensor({1.5, -2.0}, at::kDouble)));
}

TEST(Convert, ABooleanByteOtherThanOneIsTrue) {
  const std::array<std::byte, 3> bytes{std::byte{0}, std::byte{2}, std::byte{255}};
  const at::Tensor tensor =
      to_tensor({.name = "mask", .dtype = io::DType::boolean, .shape = {3}, .bytes = bytes});
  EXPECT_TRUE(at::equal(tensor, at::tensor({0, 1, 1}, at::kInt).to(at::kBool)));
}

TEST(Convert, TakesUnalignedBytes) {
  std::array<std::byte, 9> bytes{};
  const float value = 3.25F;
  std::memcpy(bytes.data() + 1, &value, 4);
  const at::Tensor tensor = to_tensor({.name = "t",
                                       .dtype = io::DType::f32,
                                       .shape = {1},
                                       .bytes = std::span(bytes).subspan(1, 4)});
  EXPECT_EQ(tensor.item<float>(), 3.25F);
}

TEST(Convert, ByteCountsMustFit) {
  const std::array<std::byte, 4> bytes{};
  const auto text = message_of<std::invalid_argument>([&] {
    to_tensor({.name = "w", .dtype = io::DType::f32, .shape = {2, 1}, .bytes = bytes});
  });
  EXPECT_EQ(text, "tensor 'w' of shape [2, 1] needs 8 bytes, got 4");
}

TEST(Convert, OnlyContiguousTensorsAreViewed) {
  const at::Tensor transposed = at::zeros({2, 3}).t();
  EXPECT_THROW(to_view(transposed, "w"), std::invalid_argument);
}

TEST(Convert, EmptyTensorsAreFine) {
  const at::Tensor tensor = at::zeros({0, 4});
  EXPECT_TRUE(at::equal(to_tensor(to_view(tensor, "t")), tensor));
}

}  // namespace
}  // namespace unigrpo::tensor

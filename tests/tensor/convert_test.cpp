#include "tensor/convert.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/tensors.h"

namespace unigrpo::tensor {
namespace {

using unigrpo::testing::message_of;

/// The process's memory that no file backs.
int64_t anonymous_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word != "RssAnon:") continue;
    int64_t kib = 0;
    status >> kib;
    return kib * 1024;
  }
  ADD_FAILURE() << "/proc/self/status has no RssAnon";
  return 0;
}

TEST(Convert, EveryTypeMakesTheRoundTrip) {
  for (const auto type : {at::kBool, at::kByte, at::kChar, at::kShort, at::kInt, at::kLong, at::kHalf, at::kBFloat16,
                          at::kFloat, at::kDouble}) {
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
  const at::Tensor tensor = to_tensor({.name = "mask", .dtype = io::DType::boolean, .shape = {3}, .bytes = bytes});
  EXPECT_TRUE(at::equal(tensor, at::tensor({0, 1, 1}, at::kInt).to(at::kBool)));
}

TEST(Convert, TakesUnalignedBytes) {
  std::array<std::byte, 9> bytes{};
  const float value = 3.25F;
  std::memcpy(bytes.data() + 1, &value, 4);
  const io::TensorView view = {
      .name = "t", .dtype = io::DType::f32, .shape = {1}, .bytes = std::span(bytes).subspan(1, 4)};
  EXPECT_EQ(to_tensor(view).item<float>(), 3.25F);
  EXPECT_EQ(to_tensor(view, at::kDouble).item<double>(), 3.25);
}

TEST(Convert, ByteCountsMustFit) {
  const std::array<std::byte, 4> bytes{};
  const auto text = message_of<std::invalid_argument>(
      [&] { to_tensor({.name = "w", .dtype = io::DType::f32, .shape = {2, 1}, .bytes = bytes}); });
  EXPECT_EQ(text, "tensor 'w' of shape [2, 1] needs 8 bytes, got 4");
}

TEST(Convert, OnlyContiguousTensorsAreViewed) {
  const at::Tensor transposed = at::zeros({2, 3}).t();
  EXPECT_THROW(to_view(transposed, "w"), std::invalid_argument);
}

// The weights of a model's layers, in the order of their names, from bf16 to float32.
TEST(Convert, AModelTakesItsOwnSizeAndOneTensorOfMemory) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer keeps freed memory";
#endif
  const std::vector<std::vector<int64_t>> layer = {{448, 2432}, {2432, 448}, {2432, 448}, {448},
                                                   {64, 448},   {448, 448},  {448, 448},  {64, 448}};
  const std::vector<std::byte> zeros(2 * 448 * 2432);
  std::vector<at::Tensor> weights;
  const int64_t before = anonymous_bytes();
  int64_t loaded = 0, largest = 0;
  for (int k = 0; k < 10; ++k) {
    for (const std::vector<int64_t>& shape : layer) {
      const auto bytes = std::span(zeros).first(2 * c10::multiply_integers(shape));
      weights.push_back(to_tensor({.name = "w", .dtype = io::DType::bf16, .shape = shape, .bytes = bytes}, at::kFloat));
      const auto size = static_cast<int64_t>(weights.back().nbytes());
      loaded += size;
      largest = std::max(largest, size);
      const int64_t heap = 1 << 20;  // what malloc rounds up, and the tensors' own objects
      ASSERT_LT(anonymous_bytes() - before, loaded + largest + heap) << weights.size() << " tensors";
    }
  }
}

TEST(Convert, EmptyTensorsAreFine) {
  const at::Tensor tensor = at::zeros({0, 4});
  EXPECT_TRUE(at::equal(to_tensor(to_view(tensor, "t")), tensor));
}

}  // namespace
}  // namespace unigrpo::tensor

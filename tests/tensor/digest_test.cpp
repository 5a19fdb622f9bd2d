#include "tensor/digest.h"

#include <vector>

#include "support/tensors.h"

namespace unigrpo::tensor {
namespace {

TEST(Digest, DependsOnBytesShapeAndType) {
  const at::Tensor tensor = at::arange(6, at::kFloat);
  EXPECT_EQ(digest(tensor), digest(tensor.clone()));
  EXPECT_EQ(digest(tensor).size(), 64U);
  EXPECT_NE(digest(tensor), digest(tensor + 1));
  EXPECT_NE(digest(tensor), digest(tensor.view({2, 3})));
  EXPECT_NE(digest(at::zeros({2}, at::kInt)), digest(at::zeros({2}, at::kFloat)));
}

TEST(Digest, FollowsValuesNotStrides) {
  const at::Tensor tensor = at::arange(6, at::kFloat).view({2, 3});
  EXPECT_EQ(digest(tensor.t()), digest(tensor.t().contiguous()));
}

TEST(Digest, TheOrderOfAListCounts) {
  const std::vector<at::Tensor> list{at::zeros({1}), at::ones({1})};
  const std::vector<at::Tensor> swapped{list[1], list[0]};
  EXPECT_NE(digest(at::TensorList(list)), digest(at::TensorList(swapped)));
}

}  // namespace
}  // namespace unigrpo::tensor

#include "kernels/sum_of_squares.h"

#include <ATen/Parallel.h>

#include <cmath>

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::close;

TEST(SumOfSquares, IsTheReferenceForAnyNumberOfThreads) {
  at::manual_seed(10);
  const std::vector<at::Tensor> tensors = {at::randn({333, 301}), at::randn({9}).to(at::kBFloat16), at::zeros({0}),
                                           at::full({70000}, 1e30F)};
  const at::Tensor want = sum_of_squares_reference(tensors);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = sum_of_squares(tensors);
  at::set_num_threads(3);
  EXPECT_TRUE(at::equal(sum_of_squares(tensors), one));
  at::set_num_threads(threads);
  EXPECT_TRUE(close(one, want, 0, 1e-12));
}

TEST(SumOfSquares, OfNothingIsNothingAndNanStaysInItsTensor) {
  EXPECT_EQ(sum_of_squares({}).numel(), 0);
  const at::Tensor sums = sum_of_squares({at::ones({3}), at::full({20}, std::nan("")), at::ones({2})});
  EXPECT_TRUE(close(sums, at::tensor({3.0, std::nan(""), 2.0}, at::kDouble), 0));
}

}  // namespace
}  // namespace unigrpo::kernels

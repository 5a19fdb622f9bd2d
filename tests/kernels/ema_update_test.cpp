#include "kernels/ema_update.h"

#include <ATen/Parallel.h>

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::close;

TEST(EmaUpdate, IsTheReferenceForAnyNumberOfThreads) {
  at::manual_seed(9);
  const int threads = at::get_num_threads();
  for (const int count : {1, 3}) {
    at::set_num_threads(count);
    const std::vector<at::Tensor> start = {at::randn({333, 301}), at::randn({17}), at::empty({0})};
    const std::vector<at::Tensor> values = {at::randn({333, 301}), at::randn({17}).to(at::kBFloat16), at::empty({0})};
    std::vector<at::Tensor> got, want;
    for (const at::Tensor& tensor : start) got.push_back(tensor.clone()), want.push_back(tensor.clone());
    ema_update_(got, values, 0.01);
    ema_update_reference_(want, values, 0.01);
    for (size_t i = 0; i < start.size(); ++i) EXPECT_TRUE(close(got[i], want[i], 1e-6)) << i;
    // average + rate (value - average), rounded after each operation.
    EXPECT_TRUE(at::equal(got[0], start[0] + (values[0] - start[0]) * 0.01));
  }
  at::set_num_threads(threads);
}

TEST(EmaUpdate, RefusesOtherShapesAndTypes) {
  EXPECT_THROW(ema_update_({at::zeros({2})}, {at::zeros({3})}, 0.1), c10::Error);
  EXPECT_THROW(ema_update_({at::zeros({2}, at::kBFloat16)}, {at::zeros({2})}, 0.1), c10::Error);
  EXPECT_THROW(ema_update_({at::zeros({2})}, {at::zeros({2}, at::kDouble)}, 0.1), c10::Error);
}

}  // namespace
}  // namespace unigrpo::kernels

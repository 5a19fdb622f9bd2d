#include "kernels/layer_norm.h"

#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::close;

TEST(LayerNorm, ValuesAndGradientsAreThoseOfTheReference) {
  at::manual_seed(4);
  for (const auto& shape : {std::vector<int64_t>{1, 1}, {7, 33}, {3, 5, 16}, {0, 8}}) {
    const at::Tensor x = (at::randn(shape) * 3 + 1).requires_grad_();
    const at::Tensor weight = at::randn({shape.back()}).requires_grad_();
    const at::Tensor bias = at::randn({shape.back()}).requires_grad_(), upstream = at::randn(shape);
    const at::Tensor got = layer_norm(x, weight, bias, 1e-5), want = layer_norm_reference(x, weight, bias, 1e-5);
    EXPECT_TRUE(close(got, want, 1e-5));  // float32
    const auto grads = torch::autograd::grad({(got * upstream).sum()}, {x, weight, bias});
    const auto want_grads = torch::autograd::grad({(want * upstream).sum()}, {x, weight, bias});
    for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(close(grads[i], want_grads[i], 1e-4, 1e-4)) << i;
  }
}

}  // namespace
}  // namespace unigrpo::kernels

#include "kernels/layer_norm.h"

#include <ATen/ATen.h>

#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

at::Tensor library(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  return at::layer_norm(x, weight.sizes(), weight, bias, eps);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) { m.def("layer_norm(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor"); }
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) { m.impl("layer_norm", &library); }

at::Tensor layer_norm_reference(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const at::Tensor off = x - x.mean(-1, /*keepdim=*/true);
  return off * at::rsqrt(off.square().mean(-1, /*keepdim=*/true) + eps) * weight + bias;
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  return call<&library>("layer_norm", x, weight, bias, eps);
}

}  // namespace unigrpo::kernels

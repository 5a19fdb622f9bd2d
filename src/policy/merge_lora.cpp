#include "policy/merge_lora.h"

#include <ATen/ATen.h>

namespace unigrpo::policy {

at::Tensor merge_lora(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scale) {
  const at::NoGradGuard no_grad;
  at::Tensor merged = at::mm(b.to(at::kFloat), a.to(at::kFloat));
  return merged.mul_(scale).add_(weight.to(at::kFloat));
}

}  // namespace unigrpo::policy

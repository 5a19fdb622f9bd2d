#include "tensor/spoil.h"

#include <ATen/ATen.h>

#include "base/fault.h"

namespace unigrpo::tensor {

void spoil(std::string_view point, const at::Tensor& tensor) {
  const auto bad = fault::effect(point).bad;
  if (!bad || tensor.numel() == 0) return;
  const at::NoGradGuard no_grad;
  at::Tensor element = tensor;
  while (element.dim() > 0) element = element.select(0, 0);
  element.fill_(*bad);
}

}  // namespace unigrpo::tensor

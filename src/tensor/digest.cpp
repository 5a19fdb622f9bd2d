#include "tensor/digest.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <string_view>

#include "base/text.h"
#include "tensor/shape.h"

namespace unigrpo::tensor {

std::string digest(const at::Tensor& tensor) {
  if (!tensor.defined()) return sha256_hex("undefined");
  const at::Tensor flat = tensor.detach().cpu().contiguous();
  // Hash of (head, hash of the bytes): no copy of the bytes behind a header.
  const std::string_view bytes(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
  return sha256_hex(
      fmt::format("{} {} {}", at::toString(flat.scalar_type()), shape_text(flat.sizes()), sha256_hex(bytes)));
}

std::string digest(at::TensorList tensors) {
  std::string all;
  for (const at::Tensor& tensor : tensors) all += digest(tensor) + "\n";
  return sha256_hex(all);
}

}  // namespace unigrpo::tensor

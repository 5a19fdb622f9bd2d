#include "tensor/shape.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <stdexcept>

namespace unigrpo::tensor {

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += shape[i] < 0 ? "*" : std::to_string(shape[i]);
  }
  return text + "]";
}

void check_shape(const at::Tensor& tensor, at::IntArrayRef expected, std::string_view name) {
  if (!tensor.defined()) {
    throw std::invalid_argument(fmt::format("{} is undefined, expected {}", name, shape_text(expected)));
  }
  bool fits = tensor.dim() == static_cast<int64_t>(expected.size());
  for (size_t i = 0; fits && i < expected.size(); ++i) {
    fits = expected[i] < 0 || tensor.sizes()[i] == expected[i];
  }
  if (!fits) {
    throw std::invalid_argument(
        fmt::format("{} has shape {}, expected {}", name, shape_text(tensor.sizes()), shape_text(expected)));
  }
}

void check_same_shape(const at::Tensor& a, std::string_view a_name, const at::Tensor& b, std::string_view b_name) {
  if (!a.defined() || !b.defined()) {
    throw std::invalid_argument(fmt::format("{} is undefined", a.defined() ? b_name : a_name));
  }
  if (a.sizes() != b.sizes()) {
    throw std::invalid_argument(
        fmt::format("{} has shape {}, but {} has {}", a_name, shape_text(a.sizes()), b_name, shape_text(b.sizes())));
  }
}

at::Tensor at_least_float32(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? tensor : tensor.to(at::kFloat);
}

}  // namespace unigrpo::tensor

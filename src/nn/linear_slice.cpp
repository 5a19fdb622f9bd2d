#include "nn/linear_slice.h"

#include <ATen/ATen.h>

#include <stdexcept>

namespace unigrpo::nn {
namespace {

at::Tensor run_of(const at::Tensor& whole, int64_t dim, int64_t part, int64_t parts) {
  const int64_t size = whole.size(dim) / parts;
  return whole.narrow(dim, part * size, size);
}

Linear with_adapter(Linear slice, const at::Tensor& a, const at::Tensor& b) {
  slice.lora = std::make_shared<LoraAdapter>(LoraAdapter{.a = a, .b = b, .scale = slice.lora->scale});
  return slice;
}

}  // namespace

Linear output_slice(const Linear& linear, int64_t part, int64_t parts) {
  Linear slice = linear;
  slice.weight = run_of(linear.weight, 0, part, parts);
  if (linear.bias.defined()) slice.bias = run_of(linear.bias, 0, part, parts);
  if (!linear.lora) return slice;
  return with_adapter(std::move(slice), linear.lora->a, run_of(linear.lora->b, 0, part, parts));
}

Linear input_slice(const Linear& linear, int64_t part, int64_t parts) {
  if (linear.bias.defined()) throw std::invalid_argument(linear.name + ": a bias would be added by each part");
  Linear slice = linear;
  slice.weight = run_of(linear.weight, 1, part, parts);
  slice.part = part;
  slice.parts = parts;
  if (!linear.lora) return slice;
  return with_adapter(std::move(slice), run_of(linear.lora->a, 1, part, parts), linear.lora->b);
}

}  // namespace unigrpo::nn

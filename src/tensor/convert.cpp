#include "tensor/convert.h"

#include <array>
#include <cstring>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "tensor/shape.h"

namespace unigrpo::tensor {
namespace {

constexpr std::array kTypes = {
    std::pair{io::DType::boolean, at::kBool},        std::pair{io::DType::u8, at::kByte},
    std::pair{io::DType::i8, at::kChar},             std::pair{io::DType::u16, at::kUInt16},
    std::pair{io::DType::i16, at::kShort},           std::pair{io::DType::f16, at::kHalf},
    std::pair{io::DType::bf16, at::kBFloat16},       std::pair{io::DType::u32, at::kUInt32},
    std::pair{io::DType::i32, at::kInt},             std::pair{io::DType::f32, at::kFloat},
    std::pair{io::DType::u64, at::kUInt64},          std::pair{io::DType::i64, at::kLong},
    std::pair{io::DType::f64, at::kDouble},          std::pair{io::DType::f8_e4m3, at::kFloat8_e4m3fn},
    std::pair{io::DType::f8_e5m2, at::kFloat8_e5m2},
};

}  // namespace

at::ScalarType to_scalar_type(io::DType dtype) {
  for (const auto& [ours, torchs] : kTypes) {
    if (ours == dtype) return torchs;
  }
  throw std::invalid_argument(
      fmt::format("no tensor type for {}", std::string(io::dtype_name(dtype))));
}

io::DType to_dtype(at::ScalarType type) {
  for (const auto& [ours, torchs] : kTypes) {
    if (torchs == type) return ours;
  }
  throw std::invalid_argument(fmt::format("no file type for tensors of {}", at::toString(type)));
}

at::Tensor to_tensor(const io::TensorView& view, at::ScalarType target, at::Device device) {
  // Booleans come as bytes first: a bool that holds 2 is undefined behaviour.
  const bool is_bool = view.dtype == io::DType::boolean;
  at::Tensor raw = at::empty(view.shape, is_bool ? at::kByte : to_scalar_type(view.dtype));
  if (raw.nbytes() != view.bytes.size()) {
    throw std::invalid_argument(fmt::format("tensor '{}' of shape {} needs {} bytes, got {}",
                                            view.name, shape_text(view.shape), raw.nbytes(),
                                            view.bytes.size()));
  }
  if (!view.bytes.empty()) {
    std::memcpy(raw.mutable_data_ptr(), view.bytes.data(), view.bytes.size());
  }
  if (is_bool) raw = raw.ne(0);
  return raw.to(device, target);
}

at::Tensor to_tensor(const io::TensorView& view, at::Device device) {
  return to_tensor(view, to_scalar_type(view.dtype), device);
}

at::Tensor index_tensor(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

io::TensorView to_view(const at::Tensor& tensor, std::string name) {
  if (!tensor.defined() || !tensor.is_cpu() || !tensor.is_contiguous()) {
    throw std::invalid_argument(
        fmt::format("tensor '{}' must be contiguous on the CPU to be written", name));
  }
  return {.name = std::move(name),
          .dtype = to_dtype(tensor.scalar_type()),
          .shape = tensor.sizes().vec(),
          .bytes = {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

}  // namespace unigrpo::tensor

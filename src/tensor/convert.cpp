#include "tensor/convert.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "tensor/shape.h"

namespace unigrpo::tensor {
namespace {

constexpr std::array kTypes = {
    std::pair{io::DType::boolean, at::kBool},
    std::pair{io::DType::u8, at::kByte},
    std::pair{io::DType::i8, at::kChar},
    std::pair{io::DType::u16, at::kUInt16},
    std::pair{io::DType::i16, at::kShort},
    std::pair{io::DType::f16, at::kHalf},
    std::pair{io::DType::bf16, at::kBFloat16},
    std::pair{io::DType::u32, at::kUInt32},
    std::pair{io::DType::i32, at::kInt},
    std::pair{io::DType::f32, at::kFloat},
    std::pair{io::DType::u64, at::kUInt64},
    std::pair{io::DType::i64, at::kLong},
    std::pair{io::DType::f64, at::kDouble},
    std::pair{io::DType::f8_e4m3, at::kFloat8_e4m3fn},
    std::pair{io::DType::f8_e5m2, at::kFloat8_e5m2},
};

}  // namespace

at::ScalarType to_scalar_type(io::DType dtype) {
  for (const auto& [ours, torchs] : kTypes) {
    if (ours == dtype) return torchs;
  }
  throw std::invalid_argument(fmt::format("no tensor type for {}", std::string(io::dtype_name(dtype))));
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
  const at::ScalarType own = is_bool ? at::kByte : to_scalar_type(view.dtype);
  const size_t element = c10::elementSize(own);
  const size_t needed = c10::multiply_integers(view.shape) * element;
  if (needed != view.bytes.size()) {
    throw std::invalid_argument(fmt::format("tensor '{}' of shape {} needs {} bytes, got {}", view.name,
                                            shape_text(view.shape), needed, view.bytes.size()));
  }
  if (device.is_meta()) return at::empty(view.shape, at::TensorOptions(target).device(device));  // nothing is read
  // Converted where they lie: copies made and freed between the results would leave holes in the heap, a fifth of a
  // model.
  const bool aligned = reinterpret_cast<uintptr_t>(view.bytes.data()) % element == 0;
  if (aligned && needed > 0 && own != target && !is_bool) {
    auto* bytes = const_cast<std::byte*>(view.bytes.data());  // read alone: to() copies where the type changes
    return at::from_blob(bytes, view.shape, own).to(device, target);
  }
  at::Tensor raw = at::empty(view.shape, own);
  if (needed > 0) std::memcpy(raw.mutable_data_ptr(), view.bytes.data(), needed);
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
    throw std::invalid_argument(fmt::format("tensor '{}' must be contiguous on the CPU to be written", name));
  }
  return {.name = std::move(name),
          .dtype = to_dtype(tensor.scalar_type()),
          .shape = tensor.sizes().vec(),
          .bytes = {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

}  // namespace unigrpo::tensor

#include "support/pretend_device.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <optional>
#include <tuple>
#include <vector>

#include "tensor/device.h"

namespace unigrpo::testing {
namespace {

constexpr auto kPretend = c10::DeviceType::PrivateUse1;

std::atomic<int64_t> copies_to_device{0};
std::atomic<int64_t> copies_to_host{0};

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    c10::DataPtr host = c10::GetCPUAllocator()->allocate(size);
    void* data = host.get();
    void* context = host.release_context();
    return {data, context, host.get_deleter(), c10::Device(kPretend, 0)};
  }
  void copy_data(void* to, const void* from, size_t size) const override { default_copy_data(to, from, size); }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex /*index*/) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
};

struct Guard final : c10::impl::NoOpDeviceGuardImpl<kPretend> {
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Device exchangeDevice(c10::Device /*device*/) const override { return {kPretend, 0}; }
  c10::Device getDevice() const override { return {kPretend, 0}; }
  c10::Stream getStream(c10::Device /*device*/) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, {kPretend, 0});
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  // Nothing runs later than it was asked for, so there is nothing to wait for.
  void record(void** /*event*/, const c10::Stream& /*stream*/, c10::DeviceIndex /*index*/,
              c10::EventFlag /*flag*/) const override {}
  void block(void* /*event*/, const c10::Stream& /*stream*/) const override {}
  bool queryEvent(void* /*event*/) const override { return true; }
  void destroyEvent(void* /*event*/, c10::DeviceIndex /*index*/) const noexcept override {}
};

Memory memory;
Hooks hooks;
const Guard guard;

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout> /*layout*/,
                 std::optional<at::Device> /*device*/, std::optional<bool> /*pin*/,
                 std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory,
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), at::dtype_or_default(dtype),
                                   format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout> /*layout*/, std::optional<at::Device> /*device*/,
                         std::optional<bool> /*pin*/) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory,
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           at::dtype_or_default(dtype));
}

/// The same memory, seen from the CPU. An empty tensor, which an operation may resize as its `out`, comes as a new one.
at::Tensor on_host(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) return tensor;
  if (tensor.numel() == 0) return at::empty(tensor.sizes(), at::TensorOptions(tensor.scalar_type()));
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), [tensor](void*) {}, at::TensorOptions(tensor.scalar_type()));
}

/// The same memory, seen from the device.
at::Tensor on_device(const at::Tensor& host) {
  if (!host.defined() || !host.is_cpu()) return host;
  const c10::Device device = pretend_device();
  return at::for_blob(host.data_ptr(), host.sizes())
      .strides(host.strides())
      .deleter([host](void*) {})
      .target_device(device)
      .options(at::TensorOptions(host.scalar_type()).device(device))
      .make_tensor();
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool /*non_blocking*/) {
  if (from.is_cpu() != to.is_cpu()) ++(from.is_cpu() ? copies_to_device : copies_to_host);
  on_host(to).copy_(on_host(from));
  return to;
}

at::Scalar local_scalar(const at::Tensor& tensor) {
  ++copies_to_host;
  return on_host(tensor).item();
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                       at::IntArrayRef output_padding, int64_t groups) {
  return on_device(at::convolution(on_host(x), on_host(weight), bias ? std::optional(on_host(*bias)) : std::nullopt,
                                   stride, padding, dilation, transposed, output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(const at::Tensor& grad, const at::Tensor& x,
                                                                    const at::Tensor& weight, at::IntArrayRef stride,
                                                                    at::IntArrayRef padding, at::IntArrayRef dilation,
                                                                    bool transposed, at::IntArrayRef output_padding,
                                                                    int64_t groups, std::array<bool, 3> wanted) {
  const std::vector<int64_t> bias = {weight.size(transposed ? 1 : 0) * (transposed ? groups : 1)};
  const auto [grad_x, grad_weight, grad_bias] =
      at::convolution_backward(on_host(grad), on_host(x), on_host(weight), bias, stride, padding, dilation, transposed,
                               output_padding, groups, wanted);
  return {on_device(grad_x), on_device(grad_weight), on_device(grad_bias)};
}

/// An argument with its tensors seen from the CPU. Throws where one lies there already.
c10::IValue argument_on_host(const c10::OperatorHandle& op, const c10::IValue& value) {
  auto cross = [&](const at::Tensor& tensor) {
    TORCH_CHECK(!tensor.defined() || !tensor.is_cpu() || tensor.dim() == 0, op.schema().operator_name(),
                ": a CPU tensor of shape ", tensor.sizes(), " among tensors of the pretend device");
    return on_host(tensor);
  };
  if (value.isTensor()) return cross(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> crossed;
    for (const at::Tensor& tensor : value.toTensorVector()) crossed.push_back(cross(tensor));
    return crossed;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> crossed;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
      crossed.push_back(tensor ? std::optional(cross(*tensor)) : std::nullopt);
    }
    return crossed;
  }
  return value.isDevice() ? c10::IValue(at::Device(at::kCPU)) : value;
}

/// The argument that a result is by its schema ("Tensor(a!)"), if any.
std::optional<size_t> written_argument(const c10::FunctionSchema& schema, size_t result) {
  const c10::AliasInfo* alias = schema.returns()[result].alias_info();
  if (alias == nullptr || !alias->isWrite()) return std::nullopt;
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    const c10::AliasInfo* own = schema.arguments()[i].alias_info();
    if (own != nullptr && own->isWrite() && own->beforeSets() == alias->beforeSets()) return i;
  }
  return std::nullopt;
}

/// Runs the CPU's operation on the same memory.
void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const std::vector<c10::IValue> arguments(stack->end() - static_cast<int64_t>(schema.arguments().size()),
                                           stack->end());
  torch::jit::drop(*stack, arguments.size());
  // They outlive the call: an operation that returns several `out` tensors drops the stack's before it hands them on
  // (LibTorch 2.11, make_boxed_from_unboxed_functor).
  std::vector<c10::IValue> crossed_arguments;
  for (const c10::IValue& value : arguments) crossed_arguments.push_back(argument_on_host(op, value));
  stack->insert(stack->end(), crossed_arguments.begin(), crossed_arguments.end());
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  const size_t first = stack->size() - schema.returns().size();
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    c10::IValue& result = (*stack)[first + i];
    if (const auto written = written_argument(schema, i)) {
      if (result.isTensor()) {  // an `out` that was resized
        const at::Tensor& target = arguments[*written].toTensor();
        const at::Tensor& made = result.toTensor();
        if (target.sizes() != made.sizes()) {
          target.resize_(made.sizes());
          on_host(target).copy_(made);
        }
      }
      result = arguments[*written];
    } else if (result.isTensor()) {
      result = on_device(result.toTensor());
    } else if (result.isTensorList()) {
      c10::List<at::Tensor> crossed;
      for (const at::Tensor& tensor : result.toTensorVector()) crossed.push_back(on_device(tensor));
      result = crossed;
    }
  }
}

const bool registered = [] {
  c10::SetAllocator(kPretend, &memory);
  c10::register_privateuse1_backend("pretend");
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_local_scalar_dense", &local_scalar);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("view", &at::native::view);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("resize_", &at::native::resize_);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

c10::Device pretend_device() { return {kPretend, 0}; }

c10::Device any_device() {
  if (!at::hasCUDA()) return pretend_device();
  tensor::set_precision(/*deterministic=*/false);
  return {c10::kCUDA, 0};
}

DeviceCopies device_copies() { return {.to_device = copies_to_device, .to_host = copies_to_host}; }

}  // namespace unigrpo::testing

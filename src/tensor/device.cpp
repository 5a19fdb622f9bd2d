#include "tensor/device.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/device_name.h"
#include "base/error.h"

namespace unigrpo::tensor {

c10::Device device_of(const std::string& text, const std::string& where) {
  if (text == "cpu") return c10::kCPU;
  const std::optional<int> index = cuda_index(text);
  if (!index) throw BadInput("{}: expected {}, got \"{}\"", where, kDeviceNames, text);
  if (!at::globalContext().hasCUDA()) {
    throw BadInput("{}: \"{}\" needs a build with CUDA (cmake --preset cuda) on a machine with a CUDA device", where,
                   text);
  }
  const int count = at::detail::getCUDAHooks().deviceCount();
  if (*index >= count) {
    throw BadInput("{}: \"{}\" is not here: this machine has {} CUDA device(s), the last is \"cuda:{}\"", where, text,
                   count, count - 1);
  }
  return {c10::kCUDA, static_cast<c10::DeviceIndex>(*index)};
}

void set_precision(bool deterministic) {
  at::Context& context = at::globalContext();
  context.setAllowTF32CuBLAS(false);
  context.setAllowTF32CuDNN(false);
  context.setAllowBF16ReductionCuBLAS(false);
  context.setAllowFP16ReductionCuBLAS(false);
  if (!deterministic) return;
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);  // cuBLAS reads it at its first handle
  context.setDeterministicAlgorithms(true, /*warn_only=*/false);
  context.setDeterministicCuDNN(true);
  context.setBenchmarkCuDNN(false);
}

namespace {

bool is_here(const at::Tensor& tensor) { return tensor.defined() && tensor.is_cpu(); }

}  // namespace

void send_together(const std::vector<at::Tensor*>& tensors, at::Device device) {
  if (device.is_cpu()) return;
  constexpr int64_t kAlignment = 16;  // of each tensor in the block
  int64_t bytes = 0;
  for (const at::Tensor* tensor : tensors) {
    if (is_here(*tensor)) bytes += (static_cast<int64_t>(tensor->nbytes()) + kAlignment - 1) / kAlignment * kAlignment;
  }
  const at::Tensor block = at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(device.is_cuda()));
  auto* to = block.mutable_data_ptr<uint8_t>();
  for (const at::Tensor* tensor : tensors) {
    if (!is_here(*tensor) || tensor->numel() == 0) continue;
    const at::Tensor flat = tensor->contiguous();
    std::memcpy(to, flat.const_data_ptr(), flat.nbytes());
    to += (flat.nbytes() + kAlignment - 1) / kAlignment * kAlignment;
  }
  const at::Tensor sent = block.to(device, /*non_blocking=*/true);
  int64_t first = 0;
  for (at::Tensor* tensor : tensors) {
    if (!is_here(*tensor)) continue;
    const auto size = static_cast<int64_t>(tensor->nbytes());
    *tensor = sent.narrow(0, first, size).view(tensor->scalar_type()).view(tensor->sizes());
    first += (size + kAlignment - 1) / kAlignment * kAlignment;
  }
}

at::Tensor sent(at::Tensor tensor, at::Device device) {
  send_together({&tensor}, device);
  return tensor;
}

void Readings::add(std::string name, const at::Tensor& value) {
  names_.push_back(std::move(name));
  values_.push_back(value.detach());
}

std::vector<std::pair<std::string, double>> Readings::read() {
  std::vector<std::pair<std::string, double>> numbers;
  if (!values_.empty() && !values_.front().is_cpu()) {
    for (at::Tensor& value : values_) value = value.to(at::kDouble).reshape(at::IntArrayRef());
    values_ = at::stack(values_).cpu().unbind();
  }
  for (size_t i = 0; i < names_.size(); ++i) numbers.emplace_back(std::move(names_[i]), values_[i].item<double>());
  names_.clear();
  values_.clear();
  return numbers;
}

}  // namespace unigrpo::tensor

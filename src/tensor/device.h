#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <string>
#include <utility>
#include <vector>

namespace unigrpo::tensor {

/// "cpu", "cuda" (its first device) or "cuda:N". Throws BadInput naming `where` (a key or an option) where the text is
/// none of these, this build has no CUDA, or the machine has no such device.
c10::Device device_of(const std::string& text, const std::string& where);

/// Arithmetic as it is written on every device: no TF32 in cuBLAS or cuDNN (whose default is on), no sums in bf16.
/// `deterministic`: operations whose bits depend on the order of threads take their ordered form or throw.
/// Before the first operation on a device.
void set_precision(bool deterministic);

/// Moves tensors of the CPU to a device in one copy through pinned memory, for which nobody waits. Those that are
/// undefined or on a device already stay as they are; nothing happens for the CPU.
void send_together(const std::vector<at::Tensor*>& tensors, at::Device device);
/// The same of one.
at::Tensor sent(at::Tensor tensor, at::Device device);

/// Numbers that are wanted later. Reading one waits until the device has come so far, so they are read together.
class Readings {
 public:
  /// value: one element.
  void add(std::string name, const at::Tensor& value);
  /// All that were added since, in their order.
  std::vector<std::pair<std::string, double>> read();

 private:
  std::vector<std::string> names_;
  std::vector<at::Tensor> values_;
};

}  // namespace unigrpo::tensor

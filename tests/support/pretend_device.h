#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

namespace unigrpo::testing {

/// A device of its own that needs no hardware: its memory is the host's, its operations run on the CPU, and what would
/// fail or wait on a GPU shows. A CPU tensor with dimensions among its arguments throws, as CUDA does, and every copy
/// between it and the CPU is counted.
///
/// Register `pretend_device.cpp` with a test program and tensors on `pretend_device()` work there: PyTorch's
/// PrivateUse1 with a few operations of its own and the CPU's, on the same memory, for all others.
c10::Device pretend_device();

/// CUDA's first device where there is one, else the pretend one: tests/device runs on either.
c10::Device any_device();

struct DeviceCopies {
  int64_t to_device = 0;
  int64_t to_host = 0;  // item() included
};
/// Since the process began.
DeviceCopies device_copies();

}  // namespace unigrpo::testing

#pragma once

#include <ATen/core/Tensor.h>

#include "base/rng.h"

namespace unigrpo::tensor {

/// Standard normal numbers from a keyed stream: float32, filled in row-major order, made where they are wanted.
/// The same key gives the same numbers on any rank and after any restart; a longer tensor begins with the shorter one's
/// numbers. A device's differ from the CPU's by 1 ulp (kernels/keyed_random.h).
at::Tensor normal(at::IntArrayRef shape, const StreamKey& key, at::Device device = at::kCPU);

/// Uniform in [0, 1), float32 (24 random bits, so never 1); the same bits on every device.
at::Tensor uniform(at::IntArrayRef shape, const StreamKey& key, at::Device device = at::kCPU);

/// [R, width] of the same, where `rows` is: each row a function of the key and the row's number, rows [R] int64.
at::Tensor uniform_rows(const at::Tensor& rows, int64_t width, const StreamKey& key);

}  // namespace unigrpo::tensor

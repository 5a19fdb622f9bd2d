#pragma once

#include <ATen/core/Tensor.h>

#include "base/rng.h"

namespace unigrpo::tensor {

/// Standard normal numbers from a keyed stream: float32 on the CPU, filled in row-major order.
/// The same key gives the same numbers on any rank and after any restart; a longer tensor begins
/// with the shorter one's numbers.
at::Tensor normal(at::IntArrayRef shape, const StreamKey& key);

/// Uniform in [0, 1), float32 on the CPU (24 random bits, so never 1).
at::Tensor uniform(at::IntArrayRef shape, const StreamKey& key);

}  // namespace unigrpo::tensor

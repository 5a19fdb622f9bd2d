#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace unigrpo::kernels {

/// Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") with
/// the 128-bit counter (block, stream). Block b gives four 32-bit words w0..w3, so any element can be made without
/// those before it: on every device, in any order, by any number of threads.
struct RandomKey {
  uint64_t key = 0;
  uint64_t stream = 0;
};

/// Fills `out` (float32, contiguous) in row-major order with standard normals. Box-Muller in float64, rounded once:
/// elements 2b and 2b+1 are r cos(a) and r sin(a) with
///   r = sqrt(-2 ln(1 - u)), a = 2 pi v,   u, v = (w0, w1), (w2, w3) of block b as 53-bit fractions.
/// The integers are equal on all devices; sines and logarithms differ by 1 ulp.
void keyed_normal_(const at::Tensor& out, const RandomKey& key);
/// Uniforms in [0, 1) of 24 bits: element 4b + i is wi of block b. The same bits on all devices.
void keyed_uniform_(const at::Tensor& out, const RandomKey& key);
/// The same, each row of `out` [R, n] from a stream of its own, the key's xor the row's number (`rows` [R], int64, on
/// the same device). Element 4b + i of a row is wi of its block b.
void keyed_uniform_rows_(const at::Tensor& out, const at::Tensor& rows, const RandomKey& key);

}  // namespace unigrpo::kernels

// keyed_normal_, keyed_uniform_ and keyed_uniform_rows_ for CUDA: a thread a Philox block, so no element waits for
// another, and the numbers do not depend on the launch's shape. Writes 4 bytes an element and reads nothing.
#include <ATen/ATen.h>
#include <ATen/core/PhiloxRNGEngine.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

namespace unigrpo::kernels {
namespace {

constexpr int kThreads = 256;
constexpr double kTwoPi = 6.28318530717958647692;

__device__ double fraction(uint32_t low, uint32_t high) {
  return static_cast<double>((low | (static_cast<uint64_t>(high) << 32)) >> 11) * 0x1.0p-53;
}

/// kPerBlock 2: normals; 4: uniforms.
template <int kPerBlock>
__global__ void fill_kernel(float* __restrict__ out, uint64_t key, uint64_t stream, int64_t count) {
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t first = block * kPerBlock;
  if (first >= count) return;
  at::Philox4_32 engine(key, stream, static_cast<uint64_t>(block));
  const uint32_t w[4] = {engine(), engine(), engine(), engine()};
  if constexpr (kPerBlock == 2) {
    const double radius = sqrt(-2.0 * log(1.0 - fraction(w[0], w[1])));
    double sine, cosine;
    sincos(kTwoPi * fraction(w[2], w[3]), &sine, &cosine);
    out[first] = static_cast<float>(radius * cosine);
    if (first + 1 < count) out[first + 1] = static_cast<float>(radius * sine);
  } else {
    for (int i = 0; i < 4 && first + i < count; ++i) out[first + i] = static_cast<float>(w[i] >> 8) * 0x1.0p-24F;
  }
}

template <int kPerBlock>
void fill_cuda_(const at::Tensor& out, int64_t key, int64_t stream) {
  const int64_t count = out.numel();
  if (count == 0) return;
  const c10::cuda::CUDAGuard guard(out.device());
  const int64_t blocks = (count + kPerBlock - 1) / kPerBlock;
  fill_kernel<kPerBlock>
      <<<static_cast<unsigned>((blocks + kThreads - 1) / kThreads), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
          out.mutable_data_ptr<float>(), static_cast<uint64_t>(key), static_cast<uint64_t>(stream), count);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

/// A thread a block of a row.
__global__ void fill_rows_kernel(float* __restrict__ out, const int64_t* __restrict__ rows, uint64_t key,
                                 uint64_t stream, int64_t width, int64_t blocks, int64_t count) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const int64_t row = index / blocks, block = index % blocks;
  at::Philox4_32 engine(key, stream ^ static_cast<uint64_t>(rows[row]), static_cast<uint64_t>(block));
  const uint32_t w[4] = {engine(), engine(), engine(), engine()};
  float* to = out + row * width + 4 * block;
  for (int i = 0; i < 4 && 4 * block + i < width; ++i) to[i] = static_cast<float>(w[i] >> 8) * 0x1.0p-24F;
}

void uniform_rows_cuda_(const at::Tensor& out, const at::Tensor& rows, int64_t key, int64_t stream) {
  const int64_t width = out.size(1), blocks = (width + 3) / 4, count = out.size(0) * blocks;
  if (count == 0) return;
  const c10::cuda::CUDAGuard guard(out.device());
  fill_rows_kernel<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0,
                     at::cuda::getCurrentCUDAStream()>>>(out.mutable_data_ptr<float>(), rows.const_data_ptr<int64_t>(),
                                                         static_cast<uint64_t>(key), static_cast<uint64_t>(stream),
                                                         width, blocks, count);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

TORCH_LIBRARY_IMPL(unigrpo, CUDA, m) {
  m.impl("keyed_normal_", &fill_cuda_<2>);
  m.impl("keyed_uniform_", &fill_cuda_<4>);
  m.impl("keyed_uniform_rows_", &uniform_rows_cuda_);
}

}  // namespace unigrpo::kernels

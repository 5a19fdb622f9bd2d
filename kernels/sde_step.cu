// sde_step and sde_log_prob for CUDA.
//
// Idea: elementwise work and a mean over each row's latents, fused. A row is cut into chunks of a
// fixed size; a block writes one chunk's results and its partial sum of squares, and a second, tiny
// kernel adds a row's partials in order. No atomics, and the chunks do not depend on the batch: a row
// gives the same bits in any batch.
//
// Memory traffic: sde_step reads 3 and writes 2 values an element (20 bytes in float32), sde_log_prob
// reads 3 (12 bytes); the partials are 1/4096 of that.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>

namespace unigrpo::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 4096;  // elements a block
constexpr double kLogSqrtTwoPi = 0.91893853320467274178;

/// Sum over the block, in a fixed order; valid in thread 0.
__device__ double block_sum(double value) {
  __shared__ double shared[kThreads];
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  return shared[0];
}

/// kSample: `other` is the noise, and x_next and mean are written; else `other` is x_next.
template <typename T, bool kSample>
__global__ void step_kernel(const T* __restrict__ x, const T* __restrict__ velocity, const T* __restrict__ other,
                            const double* __restrict__ coefficients, T* __restrict__ x_next, T* __restrict__ mean,
                            double* __restrict__ partials, int64_t count) {
  const int64_t row = blockIdx.y;
  const int64_t base = row * count;
  const int64_t begin = blockIdx.x * kChunk;
  const int64_t end = min(begin + kChunk, count);
  const T c_x = static_cast<T>(coefficients[3 * row]);
  const T c_v = static_cast<T>(coefficients[3 * row + 1]);
  const T std = static_cast<T>(coefficients[3 * row + 2]);
  double sum = 0;
  for (int64_t i = base + begin + threadIdx.x; i < base + end; i += kThreads) {
    const T center = c_x * x[i] + c_v * velocity[i];
    T off;
    if constexpr (kSample) {
      const T next = center + std * other[i];
      mean[i] = center;
      x_next[i] = next;
      off = next - center;  // from the rounded x_next, which is all that training has
    } else {
      off = other[i] - center;
    }
    sum += static_cast<double>(off * off);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[row * gridDim.x + blockIdx.x] = sum;
}

template <typename T>
__global__ void finish_kernel(const double* __restrict__ partials, const double* __restrict__ coefficients,
                              T* __restrict__ log_prob, int64_t rows, int64_t num_chunks, int64_t count,
                              bool gaussian) {
  const int64_t row = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (row >= rows) return;
  double sum = 0;
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) sum += partials[row * num_chunks + chunk];
  const double mean_square = sum / static_cast<double>(count);
  const double std = coefficients[3 * row + 2];
  log_prob[row] = static_cast<T>(gaussian ? -mean_square / (2 * std * std) - log(std) - kLogSqrtTwoPi : -mean_square);
}

template <bool kSample>
std::tuple<at::Tensor, at::Tensor, at::Tensor> launch(const at::Tensor& x_in, const at::Tensor& velocity_in,
                                                      const at::Tensor& other_in, const at::Tensor& coefficients_in,
                                                      bool gaussian) {
  const c10::cuda::CUDAGuard guard(x_in.device());
  const at::Tensor x = x_in.contiguous();
  const at::Tensor velocity = velocity_in.contiguous();
  const at::Tensor other = other_in.contiguous();
  const at::Tensor coefficients = coefficients_in.contiguous();
  const int64_t rows = x.size(0);
  const int64_t count = rows == 0 ? 0 : x.numel() / rows;
  at::Tensor x_next = kSample ? at::empty_like(x) : at::Tensor();
  at::Tensor mean = kSample ? at::empty_like(x) : at::Tensor();
  at::Tensor log_prob = at::empty({rows}, x.options());
  if (x.numel() == 0) return {x_next, mean, log_prob.fill_(NAN)};
  TORCH_CHECK(rows <= 65535, "a batch of ", rows, " rows is more than one launch takes");

  const int64_t num_chunks = (count + kChunk - 1) / kChunk;
  const at::Tensor partials = at::empty({rows, num_chunks}, coefficients.options());
  const auto stream = at::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sde_step_cuda", [&] {
    const dim3 grid(static_cast<unsigned>(num_chunks), static_cast<unsigned>(rows));
    step_kernel<scalar_t, kSample><<<grid, kThreads, 0, stream>>>(
        x.const_data_ptr<scalar_t>(), velocity.const_data_ptr<scalar_t>(), other.const_data_ptr<scalar_t>(),
        coefficients.const_data_ptr<double>(), kSample ? x_next.mutable_data_ptr<scalar_t>() : nullptr,
        kSample ? mean.mutable_data_ptr<scalar_t>() : nullptr, partials.mutable_data_ptr<double>(), count);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    const auto blocks = static_cast<unsigned>((rows + kThreads - 1) / kThreads);
    finish_kernel<scalar_t>
        <<<blocks, kThreads, 0, stream>>>(partials.const_data_ptr<double>(), coefficients.const_data_ptr<double>(),
                                          log_prob.mutable_data_ptr<scalar_t>(), rows, num_chunks, count, gaussian);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {x_next, mean, log_prob};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> sde_step_cuda(const at::Tensor& x, const at::Tensor& velocity,
                                                             const at::Tensor& noise, const at::Tensor& coefficients,
                                                             bool gaussian) {
  return launch<true>(x, velocity, noise, coefficients, gaussian);
}

at::Tensor sde_log_prob_cuda(const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& x_next,
                             const at::Tensor& coefficients, bool gaussian) {
  return std::get<2>(launch<false>(x, velocity, x_next, coefficients, gaussian));
}

}  // namespace

TORCH_LIBRARY_IMPL(unigrpo, CUDA, m) {
  m.impl("sde_step", &sde_step_cuda);
  m.impl("sde_log_prob", &sde_log_prob_cuda);
}

}  // namespace unigrpo::kernels

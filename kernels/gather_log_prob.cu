// gather_log_prob and its backward for CUDA.
//
// Idea: one block a row walks the vocabulary once with an online softmax that also carries the
// entropy's sum, so the logits are read once and never copied. The block's reduction is a tree in a
// fixed order: a row gives the same bits in any batch.
//
// Memory traffic: forward reads N V logits; backward reads them again and writes N V gradients.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <cmath>
#include <limits>
#include <tuple>
#include <type_traits>

namespace unigrpo::kernels {
namespace {

constexpr int kThreads = 256;

/// Over the values seen so far: their largest, sum e = exp(z - max), and sum e (z - max).
template <typename T>
struct Running {
  T max = -INFINITY;
  T sum = 0;
  T weighted = 0;

  __device__ void lower_to(T new_max) {
    if (max == -INFINITY) return;  // nothing seen: sums are 0 (or nan, which stays)
    const T shift = max - new_max;
    const T factor = exp(shift);
    weighted = factor == 0 ? T(0) : (weighted + sum * shift) * factor;
    sum *= factor;
  }
  __device__ void add(T z) {
    if (z > max) {
      lower_to(z);
      max = z;
      sum += 1;
    } else if (z != -INFINITY) {
      const T shift = z - max;
      const T e = exp(shift);
      sum += e;
      weighted += e == 0 ? T(0) : e * shift;
    }
  }
  __device__ void merge(Running other) {
    const T new_max = max > other.max ? max : other.max;
    lower_to(new_max);
    other.lower_to(new_max);
    max = new_max;
    sum += other.sum;
    weighted += other.weighted;
  }
};

template <typename In, typename T>
__global__ void forward_kernel(const In* __restrict__ logits, const int64_t* __restrict__ ids,
                               T* __restrict__ log_probs, T* __restrict__ entropy, T* __restrict__ log_normalizer,
                               int64_t vocabulary, int64_t stride, T scale) {
  const int64_t row = blockIdx.x;
  const In* line = logits + row * stride;
  Running<T> mine;
  for (int64_t v = threadIdx.x; v < vocabulary; v += kThreads) {
    mine.add(static_cast<T>(line[v]) * scale);
  }
  __shared__ T max[kThreads], sum[kThreads], weighted[kThreads];
  max[threadIdx.x] = mine.max;
  sum[threadIdx.x] = mine.sum;
  weighted[threadIdx.x] = mine.weighted;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      const int from = threadIdx.x + half;
      Running<T> theirs;
      theirs.max = max[from];
      theirs.sum = sum[from];
      theirs.weighted = weighted[from];
      mine.merge(theirs);
      max[threadIdx.x] = mine.max;
      sum[threadIdx.x] = mine.sum;
      weighted[threadIdx.x] = mine.weighted;
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  CUDA_KERNEL_ASSERT(ids[row] >= 0 && ids[row] < vocabulary);
  const T log_sum = log(mine.sum);
  log_probs[row] = static_cast<T>(line[ids[row]]) * scale - mine.max - log_sum;
  entropy[row] = log_sum - mine.weighted / mine.sum;
  log_normalizer[row] = mine.max + log_sum;
}

template <typename In, typename T>
__global__ void backward_kernel(const In* __restrict__ logits, const int64_t* __restrict__ ids,
                                const T* __restrict__ entropy, const T* __restrict__ log_normalizer,
                                const T* __restrict__ grad_log_probs, const T* __restrict__ grad_entropy,
                                In* __restrict__ grad, int64_t vocabulary, int64_t stride, T scale) {
  const int64_t row = blockIdx.x;
  const In* line = logits + row * stride;
  In* out = grad + row * vocabulary;
  const int64_t id = ids[row];
  const T g = grad_log_probs[row];
  const T h = grad_entropy[row];
  for (int64_t v = threadIdx.x; v < vocabulary; v += kThreads) {
    const T log_p = static_cast<T>(line[v]) * scale - log_normalizer[row];
    const T p = exp(log_p);
    const T entropy_part = p == 0 ? T(0) : h * p * (log_p + entropy[row]);
    const T hit = v == id ? g : T(0);
    out[v] = static_cast<In>((hit - g * p - entropy_part) * scale);
  }
}

at::Tensor with_dense_rows(const at::Tensor& logits) {
  return logits.size(1) <= 1 || logits.stride(1) == 1 ? logits : logits.contiguous();
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gather_log_prob_cuda(const at::Tensor& logits_in,
                                                                    const at::Tensor& ids_in, double temperature) {
  const c10::cuda::CUDAGuard guard(logits_in.device());
  const at::Tensor logits = with_dense_rows(logits_in);
  const at::Tensor ids = ids_in.contiguous();
  const int64_t rows = logits.size(0);
  const auto type = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto options = logits.options().dtype(type);
  at::Tensor log_probs = at::empty({rows}, options);
  at::Tensor entropy = at::empty({rows}, options);
  at::Tensor log_normalizer = at::empty({rows}, options);
  if (rows == 0) return {log_probs, entropy, log_normalizer};
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, logits.scalar_type(), "gather_log_prob_cuda", [&] {
    using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    forward_kernel<scalar_t, T><<<static_cast<unsigned>(rows), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
        logits.const_data_ptr<scalar_t>(), ids.const_data_ptr<int64_t>(), log_probs.mutable_data_ptr<T>(),
        entropy.mutable_data_ptr<T>(), log_normalizer.mutable_data_ptr<T>(), logits.size(1), logits.stride(0),
        static_cast<T>(1.0 / temperature));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {log_probs, entropy, log_normalizer};
}

at::Tensor gather_log_prob_backward_cuda(const at::Tensor& logits_in, const at::Tensor& ids_in, double temperature,
                                         const at::Tensor& entropy_in, const at::Tensor& log_normalizer_in,
                                         const at::Tensor& grad_log_probs_in, const at::Tensor& grad_entropy_in) {
  const c10::cuda::CUDAGuard guard(logits_in.device());
  const at::Tensor logits = with_dense_rows(logits_in);
  const at::Tensor ids = ids_in.contiguous();
  const at::Tensor entropy = entropy_in.contiguous();
  const at::Tensor log_normalizer = log_normalizer_in.contiguous();
  const at::Tensor grad_log_probs = grad_log_probs_in.contiguous();
  const at::Tensor grad_entropy = grad_entropy_in.contiguous();
  const int64_t rows = logits.size(0);
  at::Tensor grad = at::empty({rows, logits.size(1)}, logits.options());
  if (rows == 0) return grad;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, logits.scalar_type(), "gather_log_prob_backward_cuda", [&] {
    using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    backward_kernel<scalar_t, T><<<static_cast<unsigned>(rows), kThreads, 0, at::cuda::getCurrentCUDAStream()>>>(
        logits.const_data_ptr<scalar_t>(), ids.const_data_ptr<int64_t>(), entropy.const_data_ptr<T>(),
        log_normalizer.const_data_ptr<T>(), grad_log_probs.const_data_ptr<T>(), grad_entropy.const_data_ptr<T>(),
        grad.mutable_data_ptr<scalar_t>(), logits.size(1), logits.stride(0), static_cast<T>(1.0 / temperature));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return grad;
}

}  // namespace

TORCH_LIBRARY_IMPL(unigrpo, CUDA, m) {
  m.impl("gather_log_prob", &gather_log_prob_cuda);
  m.impl("gather_log_prob_backward", &gather_log_prob_backward_cuda);
}

}  // namespace unigrpo::kernels

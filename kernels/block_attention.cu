// block_attention for CUDA, forward alone: what decoding asks for, where each row has few queries and many keys.
//
// Idea: a block a (query, key/value head). It reads the pool's rows by their number, without gathering them first, once
// for all query heads that share the key/value head. Keys come in splits of 256, in order, with a running maximum and
// sum, so that a query's bits follow from its own keys alone: not from the batch, nor from the launch.
//
// Memory traffic: each key and value that a query sees once; queries and outputs are small beside them.
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

constexpr int kThreads = 128;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSplit = 256;      // keys whose weights are known together
constexpr int kHeadsAtOnce = 8;  // query heads that a thread adds up for one reading of a value
constexpr size_t kMostShared = 96 * 1024;

struct Shape {
  int heads, kv_heads, dim, blocks;
  const int64_t *queries, *query_start, *keys, *key_start;
  const bool* causal;
};

/// The block to which the `place`-th query of the list belongs.
__device__ int block_of(const Shape& shape, int64_t place) {
  int low = 0, high = shape.blocks;  // query_start[low] <= place < query_start[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (shape.query_start[middle] <= place ? low : high) = middle;
  }
  return low;
}

__device__ float sum_of_warp(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffff, value, step);
  return value;
}

__device__ float max_of_warp(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, step));
  return value;
}

template <typename scalar_t>
__global__ void attention_kernel(Shape shape, const scalar_t* __restrict__ q, const scalar_t* __restrict__ k,
                                 const scalar_t* __restrict__ v, float scale, scalar_t* __restrict__ out,
                                 float* __restrict__ log_sum) {
  extern __shared__ float shared[];
  const int dim = shape.dim, share = shape.heads / shape.kv_heads, kv_head = blockIdx.y;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float* queries = shared;                // [share, Dh], scaled
  float* sums = queries + share * dim;    // [share, Dh]
  float* weights = sums + share * dim;    // [share, kSplit]
  float* top = weights + share * kSplit;  // [share]: the largest score so far
  float* total = top + share;             // [share]: the sum of weights so far
  float* fading = total + share;          // [share]: what the new maximum makes of the sums before

  const int block = block_of(shape, blockIdx.x);
  const int64_t row = shape.queries[blockIdx.x];
  const int64_t* keys = shape.keys + shape.key_start[block];
  const int64_t all = shape.key_start[block + 1] - shape.key_start[block];
  const int64_t last = shape.query_start[block + 1] - 1 - blockIdx.x;  // queries of the block behind this one
  const int64_t seen = shape.causal[block] ? all - last : all;
  const int64_t first_head = row * shape.heads + kv_head * share;

  for (int i = threadIdx.x; i < share * dim; i += kThreads) {
    queries[i] = static_cast<float>(q[first_head * dim + i]) * scale;
    sums[i] = 0;
  }
  if (threadIdx.x < share) {
    top[threadIdx.x] = -INFINITY;
    total[threadIdx.x] = 0;
  }
  __syncthreads();

  for (int64_t start = 0; start < seen; start += kSplit) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kSplit), seen - start));
    for (int j = warp; j < count; j += kWarps) {
      const scalar_t* key = k + (keys[start + j] * shape.kv_heads + kv_head) * dim;
      for (int head = 0; head < share; ++head) {
        float product = 0;
        for (int d = lane; d < dim; d += kWarp) product += queries[head * dim + d] * static_cast<float>(key[d]);
        product = sum_of_warp(product);
        if (lane == 0) weights[head * kSplit + j] = product;
      }
    }
    __syncthreads();
    for (int head = warp; head < share; head += kWarps) {
      float most = top[head];
      for (int j = lane; j < count; j += kWarp) most = fmaxf(most, weights[head * kSplit + j]);
      most = max_of_warp(most);
      float sum = 0;
      for (int j = lane; j < count; j += kWarp) {
        const float weight = expf(weights[head * kSplit + j] - most);
        weights[head * kSplit + j] = weight;
        sum += weight;
      }
      sum = sum_of_warp(sum);
      if (lane == 0) {
        fading[head] = expf(top[head] - most);
        total[head] = total[head] * fading[head] + sum;
        top[head] = most;
      }
    }
    __syncthreads();
    for (int d = threadIdx.x; d < dim; d += kThreads) {
      for (int begin = 0; begin < share; begin += kHeadsAtOnce) {
        float parts[kHeadsAtOnce] = {};
        const int heads = min(kHeadsAtOnce, share - begin);
        for (int j = 0; j < count; ++j) {
          const auto value = static_cast<float>(v[(keys[start + j] * shape.kv_heads + kv_head) * dim + d]);
#pragma unroll
          for (int head = 0; head < kHeadsAtOnce; ++head) {
            if (head < heads) parts[head] += weights[(begin + head) * kSplit + j] * value;
          }
        }
#pragma unroll
        for (int head = 0; head < kHeadsAtOnce; ++head) {
          if (head >= heads) continue;
          float& sum = sums[(begin + head) * dim + d];
          sum = sum * fading[begin + head] + parts[head];
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < share * dim; i += kThreads) {
    out[first_head * dim + i] = static_cast<scalar_t>(sums[i] / total[i / dim]);
  }
  if (threadIdx.x < share) log_sum[first_head + threadIdx.x] = top[threadIdx.x] + logf(total[threadIdx.x]);
}

std::tuple<at::Tensor, at::Tensor> block_attention_cuda(const at::Tensor& q_in, const at::Tensor& k_in,
                                                        const at::Tensor& v_in, const at::Tensor& queries,
                                                        const at::Tensor& query_start, const at::Tensor& keys,
                                                        const at::Tensor& key_start, const at::Tensor& causal) {
  const at::Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
  for (const at::Tensor& index : {queries, query_start, keys, key_start, causal}) {
    TORCH_CHECK(index.device() == q.device() && index.is_contiguous(), "the blocks' index must be on ", q.device());
  }
  at::Tensor out = at::zeros_like(q);
  at::Tensor log_sum = at::zeros({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
  if (queries.numel() == 0) return {out, log_sum};
  const c10::cuda::CUDAGuard guard(q.device());
  const Shape shape{.heads = static_cast<int>(q.size(1)),
                    .kv_heads = static_cast<int>(k.size(1)),
                    .dim = static_cast<int>(q.size(2)),
                    .blocks = static_cast<int>(causal.numel()),
                    .queries = queries.const_data_ptr<int64_t>(),
                    .query_start = query_start.const_data_ptr<int64_t>(),
                    .keys = keys.const_data_ptr<int64_t>(),
                    .key_start = key_start.const_data_ptr<int64_t>(),
                    .causal = causal.const_data_ptr<bool>()};
  const int share = shape.heads / shape.kv_heads;
  const size_t bytes = sizeof(float) * share * (2 * shape.dim + kSplit + 3);
  TORCH_CHECK(share <= kThreads && bytes <= kMostShared, share, " query heads of ", shape.dim,
              " numbers a key/value head need ", bytes, " bytes of a block's memory, at most ", kMostShared,
              " are used");
  const dim3 grid(static_cast<unsigned>(queries.numel()), static_cast<unsigned>(shape.kv_heads));
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape.dim));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, q.scalar_type(), "block_attention", [&] {
    const auto kernel = attention_kernel<scalar_t>;
    C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared));
    kernel<<<grid, kThreads, bytes, at::cuda::getCurrentCUDAStream()>>>(
        shape, q.const_data_ptr<scalar_t>(), k.const_data_ptr<scalar_t>(), v.const_data_ptr<scalar_t>(), scale,
        out.mutable_data_ptr<scalar_t>(), log_sum.mutable_data_ptr<float>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {out, log_sum};
}

}  // namespace

TORCH_LIBRARY_IMPL(unigrpo, CUDA, m) { m.impl("block_attention", &block_attention_cuda); }

}  // namespace unigrpo::kernels

// sample_tokens for CUDA: the inverse of the cumulative distribution, in float64, tile by tile in id order.
//
// Idea: a block a row. Its warps sum tiles of 256 masses each; one thread walks the tiles' sums to the one that passes
// the uniform number, and a warp finds the id within it. Sums have one order whatever the batch, so a row gives the
// same token in any batch. They are grouped otherwise than on the CPU, so that a uniform number within 1e-13 of the
// border between two tokens may give the other one.
//
// Memory traffic: reads the logits twice (the maximum, the masses) and one tile again.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>

namespace unigrpo::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kOfLane = 8;                // neighbouring ids that a lane adds up
constexpr int kTile = kWarp * kOfLane;    // ids of a tile
constexpr int64_t kMostTiles = 5 * 1024;  // their sums take 40 KiB of the 48 that a block has

__device__ double sum_of_lane(const float* logits, double inverse_temperature, double top, int64_t first,
                              int64_t vocabulary) {
  double sum = 0;
  for (int64_t i = first; i < min(first + kOfLane, vocabulary); ++i) sum += exp(logits[i] * inverse_temperature - top);
  return sum;
}

__device__ double largest(const float* logits, int64_t vocabulary) {
  __shared__ float shared[kThreads];
  float top = -INFINITY;
  for (int64_t i = threadIdx.x; i < vocabulary; i += kThreads) top = fmaxf(top, logits[i]);
  shared[threadIdx.x] = top;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] = fmaxf(shared[threadIdx.x], shared[threadIdx.x + half]);
    __syncthreads();
  }
  return shared[0];
}

__global__ void sample_kernel(const float* __restrict__ all_logits, const double* __restrict__ uniforms,
                              double inverse_temperature, int64_t vocabulary, int64_t* __restrict__ ids) {
  extern __shared__ double tile_sums[];
  __shared__ int64_t chosen_tile;
  __shared__ double before_tile, target;
  const float* logits = all_logits + blockIdx.x * vocabulary;
  const int64_t tiles = (vocabulary + kTile - 1) / kTile;
  const int lane = threadIdx.x % kWarp;
  const double top = largest(logits, vocabulary) * inverse_temperature;

  for (int64_t tile = threadIdx.x / kWarp; tile < tiles; tile += kThreads / kWarp) {
    double sum = sum_of_lane(logits, inverse_temperature, top, tile * kTile + lane * kOfLane, vocabulary);
    for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffff, sum, step);
    if (lane == 0) tile_sums[tile] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    double total = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) total += tile_sums[tile];
    target = uniforms[blockIdx.x] * total;
    double running = 0, before = 0;
    int64_t found = 0;  // the last tile with mass, where rounding left the target above the last partial sum
    for (int64_t tile = 0; tile < tiles; ++tile) {
      if (tile_sums[tile] > 0) {
        found = tile;
        before = running;
      }
      running += tile_sums[tile];
      if (running > target) break;
    }
    chosen_tile = found;
    before_tile = before;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double running = before_tile;
  const int64_t first = chosen_tile * kTile, end = min(first + kTile, vocabulary);
  int64_t id = first;
  for (int64_t i = first; i < end; ++i) {
    const double mass = exp(logits[i] * inverse_temperature - top);
    if (mass > 0) id = i;
    running += mass;
    if (running > target) break;
  }
  ids[blockIdx.x] = id;
}

at::Tensor sample_tokens_cuda(const at::Tensor& logits_in, const at::Tensor& uniforms_in, double temperature) {
  const at::Tensor logits = logits_in.contiguous(), uniforms = uniforms_in.contiguous();
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  const int64_t tiles = (vocabulary + kTile - 1) / kTile;
  TORCH_CHECK(uniforms.device() == logits.device(), "logits and uniforms must be on one device");
  TORCH_CHECK(tiles <= kMostTiles, "a vocabulary of ", vocabulary, " is above ", kMostTiles * kTile);
  at::Tensor ids = at::empty({rows}, logits.options().dtype(at::kLong));
  if (rows == 0) return ids;
  const c10::cuda::CUDAGuard guard(logits.device());
  sample_kernel<<<static_cast<unsigned>(rows), kThreads, tiles * sizeof(double), at::cuda::getCurrentCUDAStream()>>>(
      logits.const_data_ptr<float>(), uniforms.const_data_ptr<double>(), 1.0 / temperature, vocabulary,
      ids.mutable_data_ptr<int64_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return ids;
}

}  // namespace

TORCH_LIBRARY_IMPL(unigrpo, CUDA, m) { m.impl("sample_tokens", &sample_tokens_cuda); }

}  // namespace unigrpo::kernels

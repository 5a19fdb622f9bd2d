#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace unigrpo::kernels {

/// One query block: `num_queries` consecutive-in-order tokens that see the same context.
///
/// keys: rows of the key/value pool it may see, context first, its own tokens last (in order).
/// causal: query i sees the keys up to its own; otherwise it sees all of them.
struct QueryBlock {
  std::vector<int64_t> queries;  // rows of the packed sequence, [Lq]
  std::vector<int64_t> keys;     // rows of the pool, [Lk], Lk >= Lq
  bool causal = true;
};

/// Ragged blocks of queries over a pool of keys, as two lists of rows with the place where each block's begin (int64).
struct BlockIndex {
  at::Tensor queries, query_start;  // [sum of Lq], [B + 1]: rows of q
  at::Tensor keys, key_start;       // [sum of Lk], [B + 1]: rows of the pool; a block's own tokens stand last
  at::Tensor causal;                // [B] bool: query i of Lq sees the first Lk - Lq + i + 1 keys, else all of them
};

/// On the CPU.
BlockIndex block_index(std::span<const QueryBlock> blocks);

/// softmax(q k^T / sqrt(Dh)) v of each query over the keys that it sees. On the CPU float32, differentiable; on CUDA
/// every dtype, forward alone. The index is on the device of q.
///
/// A query's result is a function of its own vector and of the keys and values that it sees, in their order, to the
/// last bit: not of its block, its place there, the other blocks or the number of threads. So a token that was decoded
/// alone over a cache and the same token in a packed training batch get the same numbers. (Fused attentions sum in
/// blocks whose shape follows the batch; He et al., "Defeating Nondeterminism in LLM Inference", Thinking Machines Lab
/// 2025, has the same idea for GPUs.)
///
/// q: [T, H, Dh]; k_pool, v_pool: [R, Hkv, Dh], H a multiple of Hkv. Returns [T, H, Dh]; rows in no block are 0.
at::Tensor block_attention(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool,
                           const BlockIndex& index);
/// The same in plain ATen, a block at a time, in any dtype.
at::Tensor block_attention_reference(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool,
                                     const BlockIndex& index);

}  // namespace unigrpo::kernels

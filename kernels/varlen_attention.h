#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/block_attention.h"

namespace unigrpo::kernels {

/// Blocks of one kind laid end to end, as a device's attention over sequences of any length takes them.
struct BlockList {
  at::Tensor queries, query_start;          // [sum of Lq] int64 rows of q; [B + 1] int32, where each block's begin
  at::Tensor keys, key_start;               // [sum of Lk] int64 rows of the pool; [B + 1] int32
  std::vector<int64_t> query_starts = {0};  // the same on the host
  std::vector<int64_t> key_starts = {0};
  bool causal = true;  // query i of Lq sees the first Lk - Lq + i + 1 keys, else all of them
};

/// The causal blocks and the others, a list each, on the CPU; without a list that would be empty.
std::vector<BlockList> block_lists(std::span<const QueryBlock> blocks);

/// softmax(q k^T / sqrt(Dh)) v as block_attention, in any dtype on any device. The lists' tensors are on q's device,
/// and together they hold every row of q once.
///
/// On CUDA bf16 and half go through flash attention, float32 through the memory-efficient one; both read keys and
/// values side by side, gathered from the pool. Elsewhere a loop over the blocks. Differentiable.
at::Tensor varlen_attention(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool,
                            std::span<const BlockList> lists);

}  // namespace unigrpo::kernels

#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "kernels/block_attention.h"

namespace unigrpo::kernels {

/// Blocks of like shape, padded into one batch for a device's fused attention.
struct PaddedBlocks {
  at::Tensor queries;  // [B, Lq] rows of the packed sequence; padding repeats a block's last
  at::Tensor keys;     // [B, Lk] rows of the pool; padding likewise
  at::Tensor mask;     // [B, 1, Lq, Lk] bool, true = visible; undefined = all
};

PaddedBlocks pad_blocks(std::span<const QueryBlock> blocks, at::Device device);

/// softmax(q k^T / sqrt(Dh)) v as block_attention, on any device in any dtype, but a query's bits follow from the whole
/// batch's shape. q: [T, H, Dh]; k_pool, v_pool: [R, Hkv, Dh], H a multiple of Hkv. Returns [B * Lq, H, Dh], padding
/// among them. Differentiable.
at::Tensor padded_attention(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool,
                            const PaddedBlocks& blocks);

}  // namespace unigrpo::kernels

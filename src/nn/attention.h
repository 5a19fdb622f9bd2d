#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/block_attention.h"
#include "kernels/padded_attention.h"
#include "kernels/varlen_attention.h"

namespace unigrpo::nn {

using kernels::QueryBlock;

/// Who sees whom, in the form that suits the device. float32 on the CPU reads the blocks as they are
/// (kernels/block_attention.h), and so does CUDA where blocks are short and nothing is recorded, as in decoding. Other
/// dtypes on the CPU: blocks of similar shape are padded into one batch (kernels/padded_attention.h). Elsewhere causal
/// and full blocks are laid end to end, a list each (kernels/varlen_attention.h).
class AttentionLayout {
 public:
  /// Every packed row 0..num_rows-1 must be a query of exactly one block. `part_sizes` says how many consecutive blocks
  /// form a padded batch (blocks of one kind should stand together); empty = all in one. options: dtype and device of
  /// q, k, v. Made on the host: on a device attend() needs tensors() sent there first.
  AttentionLayout(std::span<const QueryBlock> blocks, std::span<const int64_t> part_sizes, int64_t num_rows,
                  const at::TensorOptions& options);

  /// The blocks as they are, on the device of q; every packed row must be a query of one.
  explicit AttentionLayout(const kernels::BlockIndex& index) : ragged_(index) {}
  /// Where attend() reads the blocks as they are; else nothing.
  const std::optional<kernels::BlockIndex>& index() const { return ragged_; }

  /// q: [T, H, Dh]; k_pool, v_pool: [R, Hkv, Dh], H a multiple of Hkv. Returns [T, H, Dh]:
  /// softmax(q k^T / sqrt(Dh)) v over the keys that each query sees.
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool) const;

  /// What attend() reads beside q, k and v, to be sent to their device.
  std::vector<at::Tensor*> tensors();

 private:
  void pad(std::span<const QueryBlock> blocks, std::span<const int64_t> part_sizes, int64_t num_rows);

  // One of the three.
  std::optional<kernels::BlockIndex> ragged_;
  std::vector<kernels::BlockList> lists_;
  std::vector<kernels::PaddedBlocks> parts_;
  at::Tensor output_index_;  // [T]: where each packed row stands among the parts' outputs
};

}  // namespace unigrpo::nn

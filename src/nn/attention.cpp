#include "nn/attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

#include "tensor/convert.h"

namespace unigrpo::nn {

AttentionLayout::AttentionLayout(std::span<const QueryBlock> blocks, std::span<const int64_t> part_sizes,
                                 int64_t num_rows, const at::TensorOptions& options) {
  std::vector<bool> placed(num_rows, false);
  for (const QueryBlock& block : blocks) {
    if (block.queries.empty() || block.keys.size() < block.queries.size()) {
      throw std::invalid_argument("AttentionLayout: a block needs its own tokens as keys");
    }
    for (const int64_t row : block.queries) placed.at(row) = true;
  }
  if (std::ranges::find(placed, false) != placed.end()) {
    throw std::invalid_argument("AttentionLayout: a packed row is in no block");
  }
  if (options.device().is_cpu() && options.dtype() == at::kFloat) {
    ragged_ = kernels::block_index(blocks);
  } else {
    pad(blocks, part_sizes, num_rows, options.device());
  }
}

void AttentionLayout::pad(std::span<const QueryBlock> blocks, std::span<const int64_t> part_sizes, int64_t num_rows,
                          at::Device device) {
  std::vector<int64_t> sizes(part_sizes.begin(), part_sizes.end());
  if (sizes.empty()) sizes.push_back(static_cast<int64_t>(blocks.size()));
  std::vector<int64_t> output_index(num_rows, 0);
  int64_t outputs = 0;
  size_t first = 0;
  for (const int64_t size : sizes) {
    const auto members = blocks.subspan(first, size);
    first += size;
    if (members.empty()) continue;
    parts_.push_back(kernels::pad_blocks(members, device));
    for (const QueryBlock& block : members) {
      for (size_t i = 0; i < block.queries.size(); ++i) {
        output_index[block.queries[i]] = outputs + static_cast<int64_t>(i);
      }
      outputs += parts_.back().queries.size(1);
    }
  }
  output_index_ = tensor::index_tensor(output_index, device);
}

at::Tensor AttentionLayout::attend(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool) const {
  if (ragged_) return kernels::block_attention(q, k_pool, v_pool, *ragged_);
  std::vector<at::Tensor> outputs;
  outputs.reserve(parts_.size());
  for (const auto& part : parts_) outputs.push_back(kernels::padded_attention(q, k_pool, v_pool, part));
  const at::Tensor all = outputs.size() == 1 ? outputs.front() : at::cat(outputs, 0);
  return all.index_select(0, output_index_);
}

}  // namespace unigrpo::nn

#include "nn/attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace unigrpo::nn {
namespace {

at::Tensor to_device(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

}  // namespace

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
    Part part;
    part.num_blocks = size;
    bool ragged = false;
    for (const QueryBlock& block : members) {
      const auto lq = static_cast<int64_t>(block.queries.size());
      const auto lk = static_cast<int64_t>(block.keys.size());
      ragged = ragged || block.causal || (part.num_keys != 0 && lk != part.num_keys);
      part.num_queries = std::max(part.num_queries, lq);
      part.num_keys = std::max(part.num_keys, lk);
    }
    std::vector<int64_t> query_index, key_index;
    query_index.reserve(size * part.num_queries);
    key_index.reserve(size * part.num_keys);
    at::Tensor mask;
    bool* seen = nullptr;
    if (ragged) {
      mask = at::zeros({size, 1, part.num_queries, part.num_keys}, at::kBool);
      seen = mask.mutable_data_ptr<bool>();
    }
    for (const QueryBlock& block : members) {
      const auto lq = static_cast<int64_t>(block.queries.size());
      const auto lk = static_cast<int64_t>(block.keys.size());
      for (int64_t i = 0; i < part.num_queries; ++i) {
        // Padding repeats a real row: finite numbers, and its output is never read.
        const int64_t row = block.queries[std::min(i, lq - 1)];
        if (i < lq) output_index[row] = outputs + static_cast<int64_t>(query_index.size());
        query_index.push_back(row);
        if (seen) {
          const int64_t visible = block.causal ? std::min(lk, lk - lq + i + 1) : lk;
          std::fill_n(seen, visible, true);
          seen += part.num_keys;
        }
      }
      for (int64_t j = 0; j < part.num_keys; ++j) key_index.push_back(block.keys[std::min(j, lk - 1)]);
    }
    outputs += static_cast<int64_t>(query_index.size());
    part.query_index = to_device(query_index, device);
    part.key_index = to_device(key_index, device);
    if (ragged) part.mask = mask.to(device);
    parts_.push_back(std::move(part));
  }
  output_index_ = to_device(output_index, device);
}

at::Tensor AttentionLayout::attend(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool) const {
  return ragged_ ? kernels::block_attention(q, k_pool, v_pool, *ragged_) : attend_padded(q, k_pool, v_pool);
}

at::Tensor AttentionLayout::attend_padded(const at::Tensor& q, const at::Tensor& k_pool,
                                          const at::Tensor& v_pool) const {
  const int64_t heads = q.size(1), kv_heads = k_pool.size(1), head_dim = q.size(2);
  const int64_t share = heads / kv_heads;  // query heads a key/value head
  std::vector<at::Tensor> outputs;
  outputs.reserve(parts_.size());
  for (const Part& part : parts_) {
    const int64_t b = part.num_blocks, lq = part.num_queries, lk = part.num_keys;
    // Query heads that share a key/value head become further query rows of it.
    const at::Tensor qs = q.index_select(0, part.query_index)
                              .view({b, lq, kv_heads, share, head_dim})
                              .permute({0, 2, 3, 1, 4})
                              .reshape({b, kv_heads, share * lq, head_dim});
    const at::Tensor ks = k_pool.index_select(0, part.key_index).view({b, lk, kv_heads, head_dim}).transpose(1, 2);
    const at::Tensor vs = v_pool.index_select(0, part.key_index).view({b, lk, kv_heads, head_dim}).transpose(1, 2);
    std::optional<at::Tensor> mask;
    if (part.mask.defined()) mask = share == 1 ? part.mask : part.mask.repeat({1, 1, share, 1});
    const at::Tensor out = at::scaled_dot_product_attention(qs, ks, vs, mask);  // [B, Hkv, share * Lq, Dh]
    outputs.push_back(
        out.view({b, kv_heads, share, lq, head_dim}).permute({0, 3, 1, 2, 4}).reshape({b * lq, heads, head_dim}));
  }
  const at::Tensor all = outputs.size() == 1 ? outputs.front() : at::cat(outputs, 0);
  return all.index_select(0, output_index_);
}

}  // namespace unigrpo::nn

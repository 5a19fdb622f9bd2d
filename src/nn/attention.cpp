#include "nn/attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>

#include "tensor/convert.h"

namespace unigrpo::nn {
namespace {

constexpr size_t kFewQueries = 16;  // of a block: a kernel that reads each key once for one query is quick enough

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
  const bool on_cpu = options.device().is_cpu();
  const bool decodes = !on_cpu && !at::GradMode::is_enabled() &&
                       std::ranges::all_of(blocks, [](const QueryBlock& b) { return b.queries.size() <= kFewQueries; });
  if (decodes || (on_cpu && options.dtype() == at::kFloat)) {
    ragged_ = kernels::block_index(blocks);
  } else if (on_cpu) {
    pad(blocks, part_sizes, num_rows);
  } else {
    lists_ = kernels::block_lists(blocks);
  }
}

std::vector<at::Tensor*> AttentionLayout::tensors() {
  std::vector<at::Tensor*> all;
  if (ragged_) {
    all = {&ragged_->queries, &ragged_->query_start, &ragged_->keys, &ragged_->key_start, &ragged_->causal};
  }
  for (kernels::BlockList& list : lists_) {
    all.insert(all.end(), {&list.queries, &list.query_start, &list.keys, &list.key_start});
  }
  return all;
}

void AttentionLayout::pad(std::span<const QueryBlock> blocks, std::span<const int64_t> part_sizes, int64_t num_rows) {
  std::vector<int64_t> sizes(part_sizes.begin(), part_sizes.end());
  if (sizes.empty()) sizes.push_back(static_cast<int64_t>(blocks.size()));
  std::vector<int64_t> output_index(num_rows, 0);
  int64_t outputs = 0;
  size_t first = 0;
  for (const int64_t size : sizes) {
    const auto members = blocks.subspan(first, size);
    first += size;
    if (members.empty()) continue;
    parts_.push_back(kernels::pad_blocks(members, at::kCPU));
    for (const QueryBlock& block : members) {
      for (size_t i = 0; i < block.queries.size(); ++i) {
        output_index[block.queries[i]] = outputs + static_cast<int64_t>(i);
      }
      outputs += parts_.back().queries.size(1);
    }
  }
  output_index_ = tensor::index_tensor(output_index);
}

at::Tensor AttentionLayout::attend(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool) const {
  if (q.size(0) == 0) return q;  // a rank may have none of a batch's rows
  if (ragged_) return kernels::block_attention(q, k_pool, v_pool, *ragged_);
  if (!lists_.empty()) return kernels::varlen_attention(q, k_pool, v_pool, lists_);
  std::vector<at::Tensor> outputs;
  outputs.reserve(parts_.size());
  for (const auto& part : parts_) outputs.push_back(kernels::padded_attention(q, k_pool, v_pool, part));
  const at::Tensor all = outputs.size() == 1 ? outputs.front() : at::cat(outputs, 0);
  return all.index_select(0, output_index_);
}

}  // namespace unigrpo::nn

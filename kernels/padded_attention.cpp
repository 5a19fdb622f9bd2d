#include "kernels/padded_attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

at::Tensor composed(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool, const at::Tensor& queries,
                    const at::Tensor& keys, const std::optional<at::Tensor>& mask) {
  const int64_t b = queries.size(0), lq = queries.size(1), lk = keys.size(1);
  const int64_t heads = q.size(1), kv_heads = k_pool.size(1), dim = q.size(2);
  const int64_t share = heads / kv_heads;  // query heads a key/value head
  // Query heads that share a key/value head become further query rows of it.
  const at::Tensor qs = q.index_select(0, queries.view(-1))
                            .view({b, lq, kv_heads, share, dim})
                            .permute({0, 2, 3, 1, 4})
                            .reshape({b, kv_heads, share * lq, dim});
  const at::Tensor ks = k_pool.index_select(0, keys.view(-1)).view({b, lk, kv_heads, dim}).transpose(1, 2);
  const at::Tensor vs = v_pool.index_select(0, keys.view(-1)).view({b, lk, kv_heads, dim}).transpose(1, 2);
  const auto seen = mask && share > 1 ? mask->repeat({1, 1, share, 1}) : mask;
  const at::Tensor out = at::scaled_dot_product_attention(qs, ks, vs, seen);  // [B, Hkv, share * Lq, Dh]
  return out.view({b, kv_heads, share, lq, dim}).permute({0, 3, 1, 2, 4}).reshape({b * lq, heads, dim});
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def("padded_attention(Tensor q, Tensor k, Tensor v, Tensor queries, Tensor keys, Tensor? mask) -> Tensor");
}
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) { m.impl("padded_attention", &composed); }

PaddedBlocks pad_blocks(std::span<const QueryBlock> blocks, at::Device device) {
  const auto count = static_cast<int64_t>(blocks.size());
  int64_t lq = 0, lk = 0;
  bool ragged = false;
  for (const QueryBlock& block : blocks) {
    const auto own_keys = static_cast<int64_t>(block.keys.size());
    ragged = ragged || block.causal || (lk != 0 && own_keys != lk);
    lq = std::max(lq, static_cast<int64_t>(block.queries.size()));
    lk = std::max(lk, own_keys);
  }
  std::vector<int64_t> queries, keys;
  at::Tensor mask = ragged ? at::zeros({count, 1, lq, lk}, at::kBool) : at::Tensor();
  bool* seen = ragged ? mask.mutable_data_ptr<bool>() : nullptr;
  for (const QueryBlock& block : blocks) {
    const auto own_queries = static_cast<int64_t>(block.queries.size());
    const auto own_keys = static_cast<int64_t>(block.keys.size());
    for (int64_t i = 0; i < lq; ++i) {
      // Padding repeats a real row: finite numbers, and its output is never read.
      queries.push_back(block.queries[std::min(i, own_queries - 1)]);
      if (!ragged) continue;
      std::fill_n(seen, block.causal ? std::min(own_keys, own_keys - own_queries + i + 1) : own_keys, true);
      seen += lk;
    }
    for (int64_t j = 0; j < lk; ++j) keys.push_back(block.keys[std::min(j, own_keys - 1)]);
  }
  auto rows = [&](const std::vector<int64_t>& values) {
    return at::tensor(values, at::kLong).view({count, -1}).to(device);
  };
  return {rows(queries), rows(keys), ragged ? mask.to(device) : mask};
}

at::Tensor padded_attention(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool,
                            const PaddedBlocks& blocks) {
  const auto mask = blocks.mask.defined() ? std::optional(blocks.mask) : std::nullopt;
  return call<&composed>("padded_attention", q, k_pool, v_pool, blocks.queries, blocks.keys, mask);
}

}  // namespace unigrpo::kernels

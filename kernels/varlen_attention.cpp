#include "kernels/varlen_attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

constexpr int64_t kAlignment = 8;  // elements of a head that the fused kernels load at once

at::Tensor by_blocks(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& /*query_start*/,
                     const at::Tensor& /*key_start*/, at::IntArrayRef query_starts, at::IntArrayRef key_starts,
                     bool causal) {
  const int64_t share = q.size(1) / k.size(1);
  std::vector<at::Tensor> outputs;
  for (size_t b = 0; b + 1 < query_starts.size(); ++b) {
    const int64_t lq = query_starts[b + 1] - query_starts[b], lk = key_starts[b + 1] - key_starts[b];
    const at::Tensor own_q = q.narrow(0, query_starts[b], lq).to(at::kFloat);
    auto heads = [&](const at::Tensor& rows) {
      return rows.narrow(0, key_starts[b], lk).to(at::kFloat).repeat_interleave(share, 1);  // [Lk, H, Dh]
    };
    at::Tensor scores = at::einsum("qhd,khd->hqk", {own_q, heads(k)}) / std::sqrt(static_cast<double>(q.size(2)));
    if (causal) {
      const at::Tensor hidden = at::ones({lq, lk}, q.options().dtype(at::kBool)).triu(lk - lq + 1);
      scores = scores.masked_fill(hidden, -std::numeric_limits<float>::infinity());
    }
    outputs.push_back(at::einsum("hqk,khd->qhd", {scores.softmax(-1), heads(v)}));
  }
  return at::cat(outputs, 0).to(q.scalar_type());
}

int64_t longest(at::IntArrayRef starts) {
  int64_t most = 0;
  for (size_t b = 0; b + 1 < starts.size(); ++b) most = std::max(most, starts[b + 1] - starts[b]);
  return most;
}

/// PyTorch's fused kernels, which record their own gradients.
at::Tensor fused(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in, const at::Tensor& query_start,
                 const at::Tensor& key_start, at::IntArrayRef query_starts, at::IntArrayRef key_starts, bool causal) {
  const int64_t dim = q_in.size(2), share = q_in.size(1) / k_in.size(1);
  const int64_t most_queries = longest(query_starts), most_keys = longest(key_starts);
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  auto aligned = [&](const at::Tensor& x) {
    const int64_t missing = (kAlignment - dim % kAlignment) % kAlignment;
    return missing == 0 ? x : at::constant_pad_nd(x, {0, missing});
  };
  const at::Tensor q = aligned(q_in), k = aligned(k_in), v = aligned(v_in);
  if (q.scalar_type() != at::kFloat && q.size(2) <= 256) {
    return std::get<0>(at::_flash_attention_forward(q, k, v, query_start, key_start, most_queries, most_keys,
                                                    /*dropout_p=*/0.0, causal, /*return_debug_mask=*/false, scale))
        .narrow(2, 0, dim);
  }
  constexpr int64_t kNone = 0, kCausalFromBottomRight = 2;
  auto heads = [&](const at::Tensor& rows) { return rows.repeat_interleave(share, 1).unsqueeze(0); };
  return std::get<0>(at::_efficient_attention_forward(q.unsqueeze(0), heads(k), heads(v), /*bias=*/{}, query_start,
                                                      key_start, most_queries, most_keys, /*dropout_p=*/0.0,
                                                      causal ? kCausalFromBottomRight : kNone,
                                                      /*compute_log_sumexp=*/at::GradMode::is_enabled(), scale))
      .squeeze(0)
      .narrow(2, 0, dim);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def(
      "varlen_attention(Tensor q, Tensor k, Tensor v, Tensor query_start, Tensor key_start, int[] query_starts,"
      " int[] key_starts, bool causal) -> Tensor");
}
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) { m.impl("varlen_attention", &by_blocks); }
TORCH_LIBRARY_IMPL(unigrpo, CUDA, m) { m.impl("varlen_attention", &fused); }
TORCH_LIBRARY_IMPL(unigrpo, AutogradCUDA, m) { m.impl("varlen_attention", &fused); }

std::vector<BlockList> block_lists(std::span<const QueryBlock> blocks) {
  std::vector<BlockList> lists;
  for (const bool causal : {true, false}) {
    BlockList list;
    list.causal = causal;
    std::vector<int64_t> queries, keys;
    for (const QueryBlock& block : blocks) {
      if (block.causal != causal) continue;
      queries.insert(queries.end(), block.queries.begin(), block.queries.end());
      keys.insert(keys.end(), block.keys.begin(), block.keys.end());
      list.query_starts.push_back(static_cast<int64_t>(queries.size()));
      list.key_starts.push_back(static_cast<int64_t>(keys.size()));
    }
    if (queries.empty()) continue;
    list.queries = at::tensor(queries, at::kLong);
    list.keys = at::tensor(keys, at::kLong);
    list.query_start = at::tensor(list.query_starts, at::kInt);
    list.key_start = at::tensor(list.key_starts, at::kInt);
    lists.push_back(std::move(list));
  }
  return lists;
}

at::Tensor varlen_attention(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool,
                            std::span<const BlockList> lists) {
  TORCH_CHECK(q.dim() == 3 && k_pool.dim() == 3 && k_pool.sizes() == v_pool.sizes() && q.size(2) == k_pool.size(2) &&
                  q.size(1) % k_pool.size(1) == 0,
              "q ", q.sizes(), ", keys ", k_pool.sizes(), " and values ", v_pool.sizes(), " do not fit");
  at::Tensor out = at::zeros_like(q);
  for (const BlockList& list : lists) {
    for (const at::Tensor& index : {list.queries, list.keys, list.query_start, list.key_start}) {
      TORCH_CHECK(index.device() == q.device(), "the lists' tensors must be on ", q.device());
    }
    const at::Tensor mixed =
        call<&by_blocks>("varlen_attention", q.index_select(0, list.queries), k_pool.index_select(0, list.keys),
                         v_pool.index_select(0, list.keys), list.query_start, list.key_start,
                         at::IntArrayRef(list.query_starts), at::IntArrayRef(list.key_starts), list.causal);
    out = out.index_copy(0, list.queries, mixed);
  }
  return out;
}

}  // namespace unigrpo::kernels

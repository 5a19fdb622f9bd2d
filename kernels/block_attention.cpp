#include "kernels/block_attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <tuple>
#include <utility>

#include "kernels/lanes.h"
#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

constexpr int64_t kRows = 4;  // queries at a time: independent chains of products hide their latency
constexpr int64_t kProductsATask = 1 << 16;
constexpr float kLowest = -std::numeric_limits<float>::infinity();

int64_t padded(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

/// Where the numbers of one call lie.
struct Shape {
  int64_t heads = 0, kv_heads = 0, dim = 0;
  const int64_t *queries = nullptr, *query_start = nullptr, *keys = nullptr, *key_start = nullptr;
  const bool* causal = nullptr;

  int64_t share() const { return heads / kv_heads; }
  int64_t num_queries(int64_t block) const { return query_start[block + 1] - query_start[block]; }
  int64_t num_keys(int64_t block) const { return key_start[block + 1] - key_start[block]; }
};

/// A block's key/value head, and what follows of it.
struct Head {
  const Shape& shape;
  int64_t block, kv_head;

  int64_t share = shape.share(), lq = shape.num_queries(block), lk = shape.num_keys(block);
  int64_t dim = shape.dim, depth = padded(dim), width = padded(lk);
  const int64_t* queries = shape.queries + shape.query_start[block];
  const int64_t* keys = shape.keys + shape.key_start[block];
  int64_t stride = shape.kv_heads * dim, offset = kv_head * dim;  // of a pool's rows, in them
  float scale = 1.0F / std::sqrt(static_cast<float>(dim));
};

/// Rows of a block's key/value head, side by side and padded with zeros: across [Dh, Lk], and along [Lk, Dh].
struct Operand {
  std::vector<float> across, along;

  UNIGRPO_INLINE void gather(const Head& head, const float* pool, bool with_across, bool with_along) {
    const float* rows = pool + head.offset;
    const int64_t count = head.lk, dim = head.dim, width = head.width, depth = head.depth;
    if (with_across) {
      across.resize(dim * width);
      for (int64_t j = 0; j < count; ++j) {
        const float* row = rows + head.keys[j] * head.stride;
        for (int64_t d = 0; d < dim; ++d) across[d * width + j] = row[d];
      }
      for (int64_t d = 0; d < dim; ++d) std::fill(&across[d * width] + count, &across[d * width] + width, 0.0F);
    }
    if (with_along) {
      along.resize(count * depth);
      for (int64_t j = 0; j < count; ++j) {
        float* row = std::copy_n(rows + head.keys[j] * head.stride, dim, &along[j * depth]);
        std::fill_n(row, depth - dim, 0.0F);
      }
    }
  }
};

/// Scores of keys that a query does not see, up to where the last lanes end.
UNIGRPO_INLINE void hide(float* line, int64_t seen, int64_t keys) {
  std::fill(line + seen, line + padded(keys), kLowest);
}

/// How much of a sum each of kRows rows takes: `common` terms, then those up to its own end. A term that a row leaves
/// out is not one times 0, which would be nan where the term is.
struct Terms {
  int64_t common = 0;
  int64_t end[kRows] = {};
};

/// out[r, c] = sum_i x[r, i] m[i, c] for kRows rows, in the order of i. m and out are `width` numbers wide, of which
/// `columns` are asked for (and those up to where the last lanes end written).
UNIGRPO_INLINE void product(const float* x, int64_t x_width, const float* m, int64_t width, const Terms& terms,
                            int64_t columns, float* out) {
  for (int64_t c = 0; c < columns; c += kLanes) {
    Floats sum[kRows] = {};
    for (int64_t i = 0; i < terms.common; ++i) {
      const Floats row = load(m + i * width + c);
      for (int64_t r = 0; r < kRows; ++r) sum[r] += x[r * x_width + i] * row;
    }
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t i = terms.common; i < terms.end[r]; ++i) sum[r] += x[r * x_width + i] * load(m + i * width + c);
      store(out + r * width + c, sum[r]);
    }
  }
}

/// out[j, d] += sum_r weights[r, j] x[r, d] over the rows that take term j.
UNIGRPO_INLINE void spread(const float* weights, const float* x, float* out, int64_t dim, const Terms& terms,
                           int64_t width) {
  const int64_t depth = padded(dim);
  for (int64_t d = 0; d < dim; d += kLanes) {
    Floats row[kRows];
    for (int64_t r = 0; r < kRows; ++r) row[r] = load(x + r * depth + d);
    for (int64_t j = 0; j < terms.common; ++j) {
      Floats sum = load(out + j * depth + d);
      for (int64_t r = 0; r < kRows; ++r) sum += weights[r * width + j] * row[r];
      store(out + j * depth + d, sum);
    }
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t j = terms.common; j < terms.end[r]; ++j) {
        store(out + j * depth + d, load(out + j * depth + d) + weights[r * width + j] * row[r]);
      }
    }
  }
}

/// Up to kRows (query, head) pairs of a block that are worked on together, in the order of queries. Missing ones repeat
/// the last.
struct Rows {
  int64_t count = 0, keys = 0;  // keys: what the last one sees, hence the most
  int64_t at[kRows] = {};       // row * heads + head
  Terms seen;                   // keys of each

  UNIGRPO_INLINE Rows(const Head& head, int64_t first) {
    const Shape& shape = head.shape;
    count = std::min(kRows, head.lq * head.share - first);
    for (int64_t r = 0; r < kRows; ++r) {
      const int64_t place = first + std::min(r, count - 1), query = place / head.share;
      at[r] = head.queries[query] * shape.heads + head.kv_head * head.share + place % head.share;
      seen.end[r] = shape.causal[head.block] ? head.lk - head.lq + query + 1 : head.lk;
    }
    seen.common = seen.end[0];
    keys = seen.end[kRows - 1];
  }

  /// Their vectors of x [T, H, Dh], times `scale`.
  UNIGRPO_INLINE void gather(const float* x, int64_t dim, float scale, float* out) const {
    const int64_t depth = padded(dim);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t d = 0; d < dim; ++d) out[r * depth + d] = x[at[r] * dim + d] * scale;
      std::fill(out + r * depth + dim, out + (r + 1) * depth, 0.0F);
    }
  }
};

/// Of one thread.
struct Scratch {
  Operand k, v;
  std::vector<float> q, out, weights, slope, grad_k, grad_v, grad_q;

  void fit(const Head& head) {
    for (auto* rows : {&q, &out, &grad_q}) rows->resize(kRows * head.depth);
    for (auto* scores : {&weights, &slope}) scores->resize(kRows * head.width);
  }
};

UNIGRPO_CLONES void forward_head(const Head& head, const float* q, const float* k, const float* v, float* out,
                                 float* log_sum, Scratch& scratch) {
  const int64_t dim = head.dim, depth = head.depth, width = head.width;
  scratch.k.gather(head, k, true, false);
  scratch.v.gather(head, v, false, true);
  scratch.fit(head);
  for (int64_t first = 0; first < head.lq * head.share; first += kRows) {
    const Rows rows(head, first);
    rows.gather(q, dim, head.scale, scratch.q.data());
    product(scratch.q.data(), depth, scratch.k.across.data(), width, {dim}, rows.keys, scratch.weights.data());
    float sums[kRows];
    for (int64_t r = 0; r < kRows; ++r) {
      float* line = scratch.weights.data() + r * width;
      hide(line, rows.seen.end[r], rows.keys);
      const float top = max_of(line, padded(rows.keys));
      float lanes[kLanes] = {};
      for (int64_t j = 0; j < rows.keys; j += kLanes) {
        for (int64_t i = 0; i < kLanes; ++i) {
          const float weight = exp_nonpositive(line[j + i] - top);
          lanes[i] += weight;
          line[j + i] = weight;
        }
      }
      sums[r] = sum_of(lanes);
      log_sum[rows.at[r]] = top + std::log(sums[r]);
    }
    product(scratch.weights.data(), width, scratch.v.along.data(), depth, rows.seen, dim, scratch.out.data());
    for (int64_t r = 0; r < rows.count; ++r) {
      const float share = 1.0F / sums[r];
      for (int64_t d = 0; d < dim; ++d) out[rows.at[r] * dim + d] = scratch.out[r * depth + d] * share;
    }
  }
}

/// With p = exp(s - log_sum), s = q k / sqrt(Dh), g the gradient of out:
///
///   dv = p^T g        ds = p (g v^T - sum(g out))        dq = ds k / sqrt(Dh)        dk = ds^T q / sqrt(Dh)
UNIGRPO_CLONES void backward_head(const Head& head, const float* q, const float* k, const float* v, const float* out,
                                  const float* log_sum, const float* grad, float* grad_q, float* grad_k, float* grad_v,
                                  Scratch& scratch) {
  const int64_t dim = head.dim, depth = head.depth, width = head.width;
  scratch.k.gather(head, k, true, true);
  scratch.v.gather(head, v, true, false);
  scratch.fit(head);
  scratch.grad_k.assign(head.lk * depth, 0.0F);
  scratch.grad_v.assign(head.lk * depth, 0.0F);
  float *p = scratch.weights.data(), *ds = scratch.slope.data(), *g = scratch.out.data();
  for (int64_t first = 0; first < head.lq * head.share; first += kRows) {
    const Rows rows(head, first);
    rows.gather(q, dim, head.scale, scratch.q.data());
    rows.gather(grad, dim, 1.0F, g);
    for (int64_t r = rows.count; r < kRows; ++r) std::fill_n(g + r * depth, depth, 0.0F);  // repeated rows give nothing
    product(scratch.q.data(), depth, scratch.k.across.data(), width, {dim}, rows.keys, p);
    product(g, depth, scratch.v.across.data(), width, {dim}, rows.keys, ds);
    for (int64_t r = 0; r < kRows; ++r) {
      float pull = 0;
      for (int64_t d = 0; d < dim; ++d) pull += g[r * depth + d] * out[rows.at[r] * dim + d];
      float *weights = p + r * width, *slope = ds + r * width;
      hide(weights, rows.seen.end[r], rows.keys);
      const float norm = log_sum[rows.at[r]];
      for (int64_t j = 0; j < rows.keys; j += kLanes) {
        for (int64_t i = 0; i < kLanes; ++i) {
          const float x = weights[j + i] - norm;
          const float weight = exp_nonpositive(x > 0 ? 0 : x);  // rounding can lift it above 0
          weights[j + i] = weight;
          slope[j + i] = weight * (slope[j + i] - pull);
        }
      }
    }
    product(ds, width, scratch.k.along.data(), depth, rows.seen, dim, scratch.grad_q.data());
    for (int64_t r = 0; r < rows.count; ++r) {
      for (int64_t d = 0; d < dim; ++d) grad_q[rows.at[r] * dim + d] = scratch.grad_q[r * depth + d] * head.scale;
    }
    spread(ds, scratch.q.data(), scratch.grad_k.data(), dim, rows.seen, width);
    spread(p, g, scratch.grad_v.data(), dim, rows.seen, width);
  }
  for (int64_t j = 0; j < head.lk; ++j) {
    const int64_t row = head.keys[j] * head.stride + head.offset;
    for (int64_t d = 0; d < dim; ++d) {
      grad_k[row + d] += scratch.grad_k[j * depth + d];
      grad_v[row + d] += scratch.grad_v[j * depth + d];
    }
  }
}

Shape shape_of(const at::Tensor& q, const at::Tensor& k_pool, const BlockIndex& index) {
  return {.heads = q.size(1),
          .kv_heads = k_pool.size(1),
          .dim = q.size(2),
          .queries = index.queries.const_data_ptr<int64_t>(),
          .query_start = index.query_start.const_data_ptr<int64_t>(),
          .keys = index.keys.const_data_ptr<int64_t>(),
          .key_start = index.key_start.const_data_ptr<int64_t>(),
          .causal = index.causal.const_data_ptr<bool>()};
}

std::tuple<at::Tensor, at::Tensor> forward_cpu(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                                               const at::Tensor& queries, const at::Tensor& query_start,
                                               const at::Tensor& keys, const at::Tensor& key_start,
                                               const at::Tensor& causal) {
  const at::Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
  const Shape shape = shape_of(q, k, {queries, query_start, keys, key_start, causal});
  const int64_t blocks = causal.numel();
  at::Tensor out = at::zeros_like(q), log_sum = at::zeros({q.size(0), q.size(1)}, q.options());
  const float *qp = q.const_data_ptr<float>(), *kp = k.const_data_ptr<float>(), *vp = v.const_data_ptr<float>();
  float *op = out.mutable_data_ptr<float>(), *lp = log_sum.mutable_data_ptr<float>();
  for (const auto& [rows, limit] : {std::pair(queries, q.size(0)), std::pair(keys, k.size(0))}) {
    const auto [least, most] = std::ranges::minmax(std::span(rows.const_data_ptr<int64_t>(), rows.numel()));
    TORCH_CHECK_INDEX(least >= 0 && most < limit, "block_attention: row ", least < 0 ? least : most, " is not in 0..",
                      limit - 1);
  }
  int64_t products = 0;
  for (int64_t b = 0; b < blocks; ++b) products += shape.num_queries(b) * shape.share() * shape.num_keys(b) * shape.dim;
  const int64_t tasks = blocks * shape.kv_heads;
  const int64_t grain = std::max<int64_t>(1, kProductsATask * tasks / std::max<int64_t>(1, products * shape.kv_heads));
  at::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t task = begin; task < end; ++task) {
      forward_head({shape, task / shape.kv_heads, task % shape.kv_heads}, qp, kp, vp, op, lp, scratch);
    }
  });
  return {out, log_sum};
}

/// Blocks share keys, so a thread takes all blocks of a key/value head, in order.
std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cpu(const at::Tensor& q_in, const at::Tensor& k_in,
                                                            const at::Tensor& v_in, const at::Tensor& queries,
                                                            const at::Tensor& query_start, const at::Tensor& keys,
                                                            const at::Tensor& key_start, const at::Tensor& causal,
                                                            const at::Tensor& out, const at::Tensor& log_sum,
                                                            const at::Tensor& grad_in) {
  const at::Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous(), grad = grad_in.contiguous();
  const Shape shape = shape_of(q, k, {queries, query_start, keys, key_start, causal});
  at::Tensor grad_q = at::zeros_like(q), grad_k = at::zeros_like(k), grad_v = at::zeros_like(v);
  const float *qp = q.const_data_ptr<float>(), *kp = k.const_data_ptr<float>(), *vp = v.const_data_ptr<float>();
  const float *op = out.const_data_ptr<float>(), *lp = log_sum.const_data_ptr<float>(),
              *gp = grad.const_data_ptr<float>();
  float *gq = grad_q.mutable_data_ptr<float>(), *gk = grad_k.mutable_data_ptr<float>(),
        *gv = grad_v.mutable_data_ptr<float>();
  at::parallel_for(0, shape.kv_heads, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t kv_head = begin; kv_head < end; ++kv_head) {
      for (int64_t b = 0; b < causal.numel(); ++b) {
        backward_head({shape, b, kv_head}, qp, kp, vp, op, lp, gp, gq, gk, gv, scratch);
      }
    }
  });
  return {grad_q, grad_k, grad_v};
}

class BlockAttention : public torch::autograd::Function<BlockAttention> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& q,
                                                const at::Tensor& k, const at::Tensor& v, const at::Tensor& queries,
                                                const at::Tensor& query_start, const at::Tensor& keys,
                                                const at::Tensor& key_start, const at::Tensor& causal) {
    auto [out, log_sum] = call<&forward_cpu>("block_attention", q, k, v, queries, query_start, keys, key_start, causal);
    context->save_for_backward({q, k, v, queries, query_start, keys, key_start, causal, out, log_sum});
    context->mark_non_differentiable({log_sum});
    return {out, log_sum};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto s = context->get_saved_variables();
    const auto [q, k, v] = call<&backward_cpu>("block_attention_backward", s[0], s[1], s[2], s[3], s[4], s[5], s[6],
                                               s[7], s[8], s[9], grads[0]);
    return {q, k, v, {}, {}, {}, {}, {}};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def(
      "block_attention(Tensor q, Tensor k, Tensor v, Tensor queries, Tensor query_start, Tensor keys, Tensor key_start,"
      " Tensor causal) -> (Tensor out, Tensor log_sum)");
  m.def(
      "block_attention_backward(Tensor q, Tensor k, Tensor v, Tensor queries, Tensor query_start, Tensor keys,"
      " Tensor key_start, Tensor causal, Tensor out, Tensor log_sum, Tensor grad) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) {
  m.impl("block_attention", &forward_cpu);
  m.impl("block_attention_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(unigrpo, Autograd, m) { m.impl("block_attention", gradient<BlockAttention>(&forward_cpu)); }

BlockIndex block_index(std::span<const QueryBlock> blocks) {
  std::vector<int64_t> queries, query_start = {0}, keys, key_start = {0};
  at::Tensor causal = at::empty({static_cast<int64_t>(blocks.size())}, at::kBool);
  for (size_t b = 0; b < blocks.size(); ++b) {
    queries.insert(queries.end(), blocks[b].queries.begin(), blocks[b].queries.end());
    keys.insert(keys.end(), blocks[b].keys.begin(), blocks[b].keys.end());
    query_start.push_back(static_cast<int64_t>(queries.size()));
    key_start.push_back(static_cast<int64_t>(keys.size()));
    causal.mutable_data_ptr<bool>()[b] = blocks[b].causal;
  }
  auto rows = [](const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); };
  return {rows(queries), rows(query_start), rows(keys), rows(key_start), causal};
}

at::Tensor block_attention_reference(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool,
                                     const BlockIndex& index) {
  const int64_t share = q.size(1) / k_pool.size(1);
  at::Tensor out = at::zeros_like(q);
  auto rows = [](const at::Tensor& list, const at::Tensor& start, int64_t b) {
    return list.slice(0, start[b].item<int64_t>(), start[b + 1].item<int64_t>());
  };
  for (int64_t b = 0; b < index.causal.numel(); ++b) {
    const at::Tensor queries = rows(index.queries, index.query_start, b), keys = rows(index.keys, index.key_start, b);
    const at::Tensor k = k_pool.index_select(0, keys).repeat_interleave(share, 1);  // [Lk, H, Dh]
    const at::Tensor v = v_pool.index_select(0, keys).repeat_interleave(share, 1);
    at::Tensor scores = at::einsum("qhd,khd->hqk", {q.index_select(0, queries), k}) / std::sqrt(q.size(2));
    if (index.causal[b].item<bool>()) {
      const int64_t lq = queries.numel(), lk = keys.numel();
      scores = scores.masked_fill(at::ones({lq, lk}, at::kBool).triu(lk - lq + 1), kLowest);
    }
    out = out.index_copy(0, queries, at::einsum("hqk,khd->qhd", {scores.softmax(-1), v}));
  }
  return out;
}

at::Tensor block_attention(const at::Tensor& q, const at::Tensor& k_pool, const at::Tensor& v_pool,
                           const BlockIndex& index) {
  for (const at::Tensor& x : {q, k_pool, v_pool}) {
    TORCH_CHECK(x.dim() == 3 && (!x.is_cpu() || x.scalar_type() == at::kFloat),
                "block_attention takes float32 CPU or CUDA tensors [rows, heads, Dh], got ", x.scalar_type(), " ",
                x.sizes());
  }
  TORCH_CHECK(k_pool.sizes() == v_pool.sizes() && q.size(2) == k_pool.size(2) && q.size(1) % k_pool.size(1) == 0, "q ",
              q.sizes(), ", keys ", k_pool.sizes(), " and values ", v_pool.sizes(), " do not fit");
  return std::get<0>(call<&forward_cpu>("block_attention", q, k_pool, v_pool, index.queries, index.query_start,
                                        index.keys, index.key_start, index.causal));
}

}  // namespace unigrpo::kernels

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "nn/collectives.h"

namespace unigrpo::nn {

/// Heads of queries, keys and values: [T, H, Dh], [T, Hkv, Dh] twice.
struct AttentionHeads {
  at::Tensor q, k, v;
};

/// Packed rows dealt to the ranks of a group (Ulysses: Jacobs et al., arXiv 2309.14509): each has an even share of the
/// understanding rows and one of the generation rows, in their order. All but attention works on own rows; for
/// attention a rank gets all rows of an even share of the heads. Those rows come in rank order, so that nothing is
/// permuted: who sees whom is said in that order.
///
/// Ranks may outnumber the key heads, up to the query heads: then a key head goes to all ranks whose query heads read
/// it, and its gradients are added.
class SequenceShare {
 public:
  /// Of packed rows 0..num_rows-1, the understanding rows 0..num_und-1 among them.
  SequenceShare(RankGroup group, int64_t num_und, int64_t num_rows);

  /// Of this rank's rows the first num_und() are understanding rows.
  int64_t num_und() const { return und_begin(rank() + 1) - und_begin(rank()); }
  /// This rank's rows, in its order.
  std::vector<int64_t> rows() const;
  /// Where a row stands among all rows in rank order.
  int64_t place(int64_t row) const;
  /// Of all rows those in rank order.
  std::vector<int64_t> rank_order() const;

  /// Own rows of all heads to all rows, in rank order, of own heads; and back, [T, H / P, Dh] -> own [T, H, Dh].
  AttentionHeads to_heads(const AttentionHeads& own) const;
  at::Tensor to_rows(const at::Tensor& heads) const;
  /// Own rows of keys and values to all rows, in rank order, of all heads: for a cache that every rank has whole.
  std::pair<at::Tensor, at::Tensor> to_all(const at::Tensor& k, const at::Tensor& v) const;

  /// Of these rows those that this rank has, as places among its own, in the order of `rows`.
  std::vector<int64_t> held(std::span<const int64_t> rows) const;
  /// held: one row for each of held(rows). All of them, on all ranks, in the order of `rows`.
  at::Tensor gathered(const at::Tensor& held, std::span<const int64_t> rows, GatheredGradient gradient) const;

 private:
  int64_t rank() const { return group_->rank(); }
  int64_t size() const { return group_->size(); }
  int64_t und_begin(int64_t rank) const { return share_begin(num_und_, rank, size()); }
  int64_t gen_begin(int64_t rank) const { return num_und_ + share_begin(num_rows_ - num_und_, rank, size()); }
  int64_t owner(int64_t row) const;

  RankGroup group_;
  int64_t num_und_, num_rows_;
  std::vector<int64_t> counts_;  // [P]: rows of each rank
};

/// The key heads that the query heads of `rank` read, in their order; one for each query head where whole groups of
/// query heads do not fit.
std::vector<int64_t> key_heads_of(int64_t rank, int64_t ranks, int64_t num_heads, int64_t num_kv_heads);

}  // namespace unigrpo::nn

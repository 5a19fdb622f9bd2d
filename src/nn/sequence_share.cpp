#include "nn/sequence_share.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "tensor/convert.h"

namespace unigrpo::nn {
namespace {

constexpr const char* kHeads = "sequence heads";
constexpr const char* kRows = "sequence rows";
constexpr const char* kKeys = "sequence keys";
constexpr const char* kOutputs = "sequence outputs";

/// The rank whose even share of `total` has place `i`: i < total (r + 1) / ranks, and not so for r - 1.
int64_t share_of(int64_t i, int64_t total, int64_t ranks) { return ((i + 1) * ranks - 1) / total; }

}  // namespace

std::vector<int64_t> key_heads_of(int64_t rank, int64_t ranks, int64_t num_heads, int64_t num_kv_heads) {
  if (num_heads % ranks != 0 || num_heads % num_kv_heads != 0) {
    throw std::invalid_argument("key_heads_of: query heads must be a multiple of ranks and of key heads");
  }
  const int64_t own = num_heads / ranks, group = num_heads / num_kv_heads, first = rank * own;
  std::vector<int64_t> heads;
  if (own % group == 0) {
    for (int64_t h = first; h < first + own; h += group) heads.push_back(h / group);
  } else if (group % own == 0) {
    heads.push_back(first / group);
  } else {
    for (int64_t h = first; h < first + own; ++h) heads.push_back(h / group);
  }
  return heads;
}

SequenceShare::SequenceShare(RankGroup group, int64_t num_und, int64_t num_rows)
    : group_(std::move(group)), num_und_(num_und), num_rows_(num_rows) {
  for (int64_t r = 0; r < size(); ++r) {
    counts_.push_back(und_begin(r + 1) - und_begin(r) + gen_begin(r + 1) - gen_begin(r));
  }
}

std::vector<int64_t> SequenceShare::rows() const {
  std::vector<int64_t> own;
  for (int64_t row = und_begin(rank()); row < und_begin(rank() + 1); ++row) own.push_back(row);
  for (int64_t row = gen_begin(rank()); row < gen_begin(rank() + 1); ++row) own.push_back(row);
  return own;
}

int64_t SequenceShare::owner(int64_t row) const {
  return row < num_und_ ? share_of(row, num_und_, size()) : share_of(row - num_und_, num_rows_ - num_und_, size());
}

// Before the share of rank r stand the understanding and the generation rows of the ranks before it.
int64_t SequenceShare::place(int64_t row) const {
  const int64_t r = owner(row);
  if (row < num_und_) return gen_begin(r) - num_und_ + row;
  return und_begin(r + 1) + row - num_und_;
}

std::vector<int64_t> SequenceShare::rank_order() const {
  std::vector<int64_t> rows(static_cast<size_t>(num_rows_));
  for (int64_t row = 0; row < num_rows_; ++row) rows[static_cast<size_t>(place(row))] = row;
  return rows;
}

AttentionHeads SequenceShare::to_heads(const AttentionHeads& own) const {
  const int64_t h = own.q.size(1), kv = own.k.size(1), dh = own.q.size(2), rows = own.q.size(0), ranks = size();
  std::vector<int64_t> order;  // of heads of [q | k | v], rank by rank
  for (int64_t r = 0; r < ranks; ++r) {
    const std::vector<int64_t> keys = key_heads_of(r, ranks, h, kv);
    for (int64_t i = r * (h / ranks); i < (r + 1) * (h / ranks); ++i) order.push_back(i);
    for (const int64_t key : keys) order.push_back(h + key);
    for (const int64_t key : keys) order.push_back(h + kv + key);
  }
  const int64_t width = static_cast<int64_t>(order.size()) / ranks, own_kv = (width - h / ranks) / 2;
  const at::Tensor picked =
      at::cat({own.q, own.k, own.v}, 1).index_select(1, tensor::index_tensor(order, own.q.device()));
  const at::Tensor sent = picked.view({rows, ranks, width, dh}).transpose(0, 1).reshape({ranks * rows, width, dh});
  const std::vector<int64_t> to_each(static_cast<size_t>(ranks), rows);
  const at::Tensor all = exchange_rows(sent, counts_, to_each, group_, kHeads);
  const auto parts = all.split_with_sizes({h / ranks, own_kv, own_kv}, 1);
  return {parts[0].contiguous(), parts[1].contiguous(), parts[2].contiguous()};
}

at::Tensor SequenceShare::to_rows(const at::Tensor& heads) const {
  const int64_t own_rows = counts_[static_cast<size_t>(rank())], width = heads.size(1), dh = heads.size(2);
  const std::vector<int64_t> from_each(static_cast<size_t>(size()), own_rows);
  const at::Tensor got = exchange_rows(heads, from_each, counts_, group_, kRows);
  return got.view({size(), own_rows, width, dh}).transpose(0, 1).reshape({own_rows, size() * width, dh});
}

std::pair<at::Tensor, at::Tensor> SequenceShare::to_all(const at::Tensor& k, const at::Tensor& v) const {
  const at::Tensor all = gather_rows(at::cat({k, v}, 1), counts_, group_, GatheredGradient::part, kKeys);
  return {all.narrow(1, 0, k.size(1)), all.narrow(1, k.size(1), v.size(1))};
}

std::vector<int64_t> SequenceShare::held(std::span<const int64_t> rows) const {
  std::vector<int64_t> places;
  for (const int64_t row : rows) {
    if (owner(row) != rank()) continue;
    places.push_back(row < num_und_ ? row - und_begin(rank()) : num_und() + row - gen_begin(rank()));
  }
  return places;
}

at::Tensor SequenceShare::gathered(const at::Tensor& held, std::span<const int64_t> rows,
                                   GatheredGradient gradient) const {
  std::vector<int64_t> counts(static_cast<size_t>(size()), 0), owners;
  for (const int64_t row : rows) {
    owners.push_back(owner(row));
    ++counts[static_cast<size_t>(owners.back())];
  }
  const at::Tensor all = gather_rows(held, counts, group_, gradient, kOutputs);
  if (std::ranges::is_sorted(owners)) return all;
  std::vector<int64_t> next(counts.size(), 0), order;
  for (size_t r = 1; r < counts.size(); ++r) next[r] = next[r - 1] + counts[r - 1];
  for (const int64_t r : owners) order.push_back(next[static_cast<size_t>(r)]++);
  return all.index_select(0, tensor::index_tensor(order, all.device()));
}

}  // namespace unigrpo::nn

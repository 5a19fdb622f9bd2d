#include "parallel/pairwise_sum.h"

#include <ATen/ATen.h>

#include <utility>

namespace unigrpo::parallel {

void PairwiseSum::add(int64_t place, at::Tensor term) {
  // What is missing beside the last sum will not come any more, unless it is this place or may come after it.
  while (!nodes_.empty() && place >> (nodes_.back().level + 1) != nodes_.back().place / 2) widen_last();
  nodes_.push_back({.level = 0, .place = place, .sum = std::move(term)});
  while (has_pair()) widen_last();
}

bool PairwiseSum::has_pair() const {
  if (nodes_.size() < 2) return false;
  const Node &last = nodes_.back(), &before = nodes_[nodes_.size() - 2];
  return last.level == before.level && last.place == before.place + 1 && last.place % 2 == 1;
}

/// The last sum is that of twice as many places, those beside it among them.
void PairwiseSum::widen_last() {
  if (has_pair()) {
    const at::Tensor right = nodes_.back().sum;
    nodes_.pop_back();
    nodes_.back().sum.add_(right);
  }
  ++nodes_.back().level;
  nodes_.back().place /= 2;
}

at::Tensor PairwiseSum::take() {
  at::Tensor sum;
  for (; !nodes_.empty(); nodes_.pop_back()) sum = sum.defined() ? sum.add_(nodes_.back().sum) : nodes_.back().sum;
  return sum;
}

}  // namespace unigrpo::parallel

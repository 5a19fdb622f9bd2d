#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "nn/collectives.h"

namespace unigrpo::nn {

/// Which rows each rank of a group has, in its order: [ranks][rows of the rank]. Several may have the same one.
using RowHolders = std::vector<std::vector<int64_t>>;

/// Rows move from the ranks that have them to those that are to have them, in one exchange; each goes once to each that
/// is to have it. Backward is the same the other way: a row's gradients on all ranks that got it are summed. What ranks
/// had more than once comes from the first of them, and the others' has no gradient.
class RowExchange {
 public:
  /// Each row that is to be had is had by some rank. All ranks of the group make it alike.
  RowExchange(RankGroup group, const RowHolders& from, const RowHolders& to);

  /// own: [rows that this rank has, ...] -> [rows that it is to have, ...].
  at::Tensor operator()(const at::Tensor& own) const;

  /// What is read beside the rows, to be sent to their device.
  std::vector<at::Tensor*> tensors() { return {&sent_, &order_}; }

 private:
  RankGroup group_;
  at::Tensor sent_;   // own rows, rank by rank
  at::Tensor order_;  // of what comes
  std::vector<int64_t> out_counts_, in_counts_;
};

}  // namespace unigrpo::nn

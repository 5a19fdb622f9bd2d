#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "nn/attention.h"
#include "nn/collectives.h"
#include "nn/row_exchange.h"
#include "nn/sequence_share.h"

namespace unigrpo::policy {

/// How the ranks that share rows divide the work of a layer, by its tp x sp: tp neighbours have slices of its products
/// over the rows of all of them (Megatron: Shoeybi et al., arXiv 1909.08053, with sequence-parallel norms and
/// residuals: Korthikanti et al., arXiv 2205.05198), and sp such sets exchange rows for heads in attention
/// (nn/sequence_share.h). Where dp is not 1, so many sets of tp x sp ranks have whole sequences each.
struct LayerRanks {
  int64_t tp = 1, sp = 1, dp = 1;
  nn::RankGroup tensor, sequence;  // null: one rank

  bool alike(const LayerRanks& other) const { return tp == other.tp && sp == other.sp && dp == other.dp; }
};

/// The ranks that work on the same sequences. Before the first layer and after the last each has an even share of the
/// rows, and between them unless a layer's dp is not 1.
struct ModelRanks {
  nn::RankGroup all;
  nn::RankGroup tensor, sequence;  // of what belongs to no layer: those of a layer with dp = 1
  std::vector<LayerRanks> layers;
};

/// The same for the rows of one batch.
struct LayerSplit {
  LayerRanks ranks;
  int64_t num_und = 0;                             // of own rows
  std::vector<int64_t> und_counts, gen_counts;     // [tp]: rows of the tensor ranks
  std::shared_ptr<const nn::SequenceShare> heads;  // who has which rows in the exchange; null: nobody else
  std::shared_ptr<nn::AttentionLayout> layout;     // of all rows, in its rank order
  // Of the tensor ranks' rows: which of all they are (on the host), and what dropout knows them by, where there is
  // some.
  at::Tensor rows, position_ids, numbers;
  // Where rows are not as before: from the layer before this one; from even shares, and back to them. Null: as they
  // are.
  std::shared_ptr<nn::RowExchange> enter = nullptr, begin = nullptr, end = nullptr;
};

}  // namespace unigrpo::policy

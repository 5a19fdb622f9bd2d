#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "nn/attention.h"
#include "nn/collectives.h"
#include "nn/sequence_share.h"

namespace unigrpo::policy {

/// How the ranks that share rows divide the work of a layer, by its tp x sp: tp neighbours have slices of its products
/// over the rows of all of them (Megatron: Shoeybi et al., arXiv 1909.08053, with sequence-parallel norms and
/// residuals: Korthikanti et al., arXiv 2205.05198), and sp such sets exchange rows for heads in attention
/// (nn/sequence_share.h).
struct LayerRanks {
  int64_t tp = 1, sp = 1;
  nn::RankGroup tensor, sequence;  // null: one rank
};

/// The ranks that work on the same sequences. Whatever the layers do, each has an even share of the rows between them.
struct ModelRanks {
  nn::RankGroup all;
  std::vector<LayerRanks> layers;
};

/// The same for the rows of one batch.
struct LayerSplit {
  LayerRanks ranks;
  std::vector<int64_t> und_counts, gen_counts;     // [tp]: rows of the tensor ranks
  std::shared_ptr<const nn::SequenceShare> heads;  // who has which rows in the exchange; null: nobody else
  std::shared_ptr<nn::AttentionLayout> layout;     // of all rows, in its rank order
  // Of the tensor ranks' rows: which of all they are (on the host), and what dropout knows them by, where there is
  // some.
  at::Tensor rows, position_ids, numbers;
};

}  // namespace unigrpo::policy

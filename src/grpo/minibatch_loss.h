#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "grpo/advantages.h"
#include "grpo/aggregation.h"
#include "grpo/config.h"
#include "grpo/pack.h"
#include "grpo/recompute.h"
#include "grpo/update_stats.h"
#include "rollout/config.h"
#include "rollout/trajectory.h"
#include "tensor/device.h"

namespace unigrpo::grpo {

/// Global counts of a mini-batch, turn by turn: an episode's n-th text, the streams of its n-th image or clip.
struct TurnCounts {
  std::vector<ActionCounts> text;
  std::map<std::string, std::vector<ActionCounts>> flow;  // by modality

  int64_t num_turns() const;
};

/// What is recipe's of a stream of this modality.
const ImageLossConfig& flow_loss(const GrpoConfig& config, std::string_view modality);

/// Of the trajectories of these rows, outlines or not, so that one micro-batch at a time need be packed.
TurnCounts count_turns(const GrpoConfig& config, std::span<const rollout::Trajectory> trajectories,
                       std::span<const int64_t> rows);

/// Whether a term of the loss compares with the reference policy.
bool needs_reference(const GrpoConfig& config, const rollout::RolloutConfig& rollout);

/// The loss of one mini-batch, a micro-batch at a time:
///
///   loss = w_text * L_text + sum_m (w_m * L_m + lambda_m * L_penalty,m)
///
/// over an image, or the streams m of a clip, of each turn, weighted by its share of the actions; every term divided by
/// the mini-batch's global counts, so that micro-batches do not change it.
class MinibatchLoss {
 public:
  /// The references must outlive it.
  MinibatchLoss(const GrpoConfig& config, const rollout::RolloutConfig& rollout, const Advantages& advantages,
                TurnCounts counts)
      : config_(config), rollout_(rollout), advantages_(advantages), counts_(std::move(counts)) {}

  /// The sum that backward starts from; undefined where nothing is trained. Adds its numbers, which are to be summed,
  /// to `numbers`. `reference`: empty where no term needs it.
  at::Tensor loss(const PackedBatch& packed, const Recomputed& now, const Recomputed& reference,
                  tensor::Readings& numbers) const;

 private:
  /// The terms of one turn; undefined where the micro-batch has none of it.
  at::Tensor text_term(int64_t turn, const PackedTexts& texts, const Recomputed& now, const Recomputed& reference,
                       tensor::Readings& numbers) const;
  at::Tensor flow_term(int64_t turn, size_t stream, const PackedFlows& flows, const Recomputed& now,
                       const Recomputed& reference, tensor::Readings& numbers) const;

  const GrpoConfig& config_;
  const rollout::RolloutConfig& rollout_;
  const Advantages& advantages_;
  TurnCounts counts_;
};

}  // namespace unigrpo::grpo

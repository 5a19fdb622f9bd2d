#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "policy/policy.h"
#include "rollout/config.h"
#include "rollout/trajectory.h"

namespace unigrpo::rollout {

/// One text segment being decoded: feed `next_input`, take the logits, sample, until it is finished.
class TextRow {
 public:
  TextRow(policy::Context* context, const StreamKey& key, int64_t max_tokens);
  /// The text is given: it enters the context in one piece and nothing is sampled.
  TextRow(policy::Context* context, std::vector<int64_t> forced_ids);

  policy::Context* context = nullptr;
  std::vector<int64_t> next_input;  // ids to append in the next call; empty before the first
  TextSegment segment;
  bool finished = false;  // the end token stands in the context

 private:
  friend void decode_step(policy::TextPolicy&, std::span<TextRow* const>, double, const Truncation&);
  RandomStream stream_;
  int64_t max_tokens_;
  std::vector<float> log_probs_, entropy_;
  bool closing_ = false;
};

/// One call of the policy for all rows, then one sampled token a row. A row whose last token was its end (or whose
/// length is used up) gets the end token into its context in the next call and is then `finished`. temperature 0 takes
/// the likeliest token, whose log_prob is then that at temperature 1. What `truncation` leaves out is not drawn;
/// log_prob and entropy are those of the whole distribution at the temperature.
void decode_step(policy::TextPolicy& policy, std::span<TextRow* const> rows, double temperature,
                 const Truncation& truncation = {});

/// logits: [N, V] float32. The same with -inf where a token may not be drawn at this temperature. A row's depend on
/// that row alone; of equals at the border of top_p the lower ids stay.
at::Tensor truncated(const at::Tensor& logits, double temperature, const Truncation& truncation);

}  // namespace unigrpo::rollout

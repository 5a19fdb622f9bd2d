#include "rollout/text_decoder.h"

#include <ATen/ATen.h>

#include <cmath>

#include "kernels/gather_log_prob.h"

namespace unigrpo::rollout {
namespace {

/// Inverse of the cumulative distribution, in id order and float64: the token at which the running sum passes u.
int64_t sample_token(const float* logits, int64_t vocab, double temperature, double u) {
  double top = -INFINITY;
  for (int64_t i = 0; i < vocab; ++i) top = std::max(top, logits[i] / temperature);
  double total = 0;
  for (int64_t i = 0; i < vocab; ++i) total += std::exp(logits[i] / temperature - top);
  const double target = u * total;
  double running = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    const double mass = std::exp(logits[i] / temperature - top);
    if (mass > 0) last = i;
    running += mass;
    if (running > target) return i;
  }
  return last;  // rounding left u above the last partial sum
}

}  // namespace

TextRow::TextRow(policy::Context* context_, const StreamKey& key, int64_t max_tokens)
    : context(context_), stream_(key), max_tokens_(max_tokens) {}

TextRow::TextRow(policy::Context* context_, std::vector<int64_t> forced_ids)
    : context(context_), stream_(StreamKey{}), max_tokens_(0), closing_(true) {
  segment.ids = std::move(forced_ids);
  segment.ended = true;
  segment.forced = true;
}

void decode_step(policy::TextPolicy& policy, std::span<TextRow* const> rows, double temperature) {
  const at::NoGradGuard no_grad;
  std::vector<policy::Context*> contexts;
  std::vector<std::vector<int64_t>> inputs;
  for (TextRow* row : rows) {
    if (row->next_input.empty()) {
      row->next_input = {policy.bos_id()};
      if (row->segment.forced) {
        row->next_input.insert(row->next_input.end(), row->segment.ids.begin(), row->segment.ids.end());
      }
    }
    contexts.push_back(row->context);
    inputs.push_back(row->next_input);
  }
  const at::Tensor logits = policy.append_text(contexts, inputs).to(at::kCPU).contiguous();  // [B, V]
  const int64_t vocab = logits.size(1);
  const auto* values = logits.const_data_ptr<float>();
  std::vector<int64_t> chosen(rows.size(), 0);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i]->closing_) continue;
    chosen[i] = sample_token(values + static_cast<int64_t>(i) * vocab, vocab, temperature, rows[i]->stream_.uniform());
  }
  const kernels::TokenLogProbs scored = kernels::gather_log_prob(logits, at::tensor(chosen, at::kLong), temperature);
  const auto* log_probs = scored.log_probs.const_data_ptr<float>();
  const auto* entropy = scored.entropy.const_data_ptr<float>();
  for (size_t i = 0; i < rows.size(); ++i) {
    TextRow& row = *rows[i];
    if (row.closing_) {
      row.closed = true;
      continue;
    }
    row.segment.ids.push_back(chosen[i]);
    row.log_probs_.push_back(log_probs[i]);
    row.entropy_.push_back(entropy[i]);
    row.segment.ended = chosen[i] == policy.eos_id();
    row.next_input = {chosen[i]};
    if (row.segment.ended || static_cast<int64_t>(row.segment.ids.size()) == row.max_tokens_) {
      // A cut text is closed like any other, but its end token is nobody's action.
      row.closing_ = true;
      if (!row.segment.ended) row.next_input.push_back(policy.eos_id());
      row.segment.log_probs = at::tensor(row.log_probs_);
      row.segment.entropy = at::tensor(row.entropy_);
    }
  }
}

}  // namespace unigrpo::rollout

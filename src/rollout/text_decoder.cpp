#include "rollout/text_decoder.h"

#include <ATen/ATen.h>

#include <limits>
#include <tuple>

#include "kernels/gather_log_prob.h"
#include "kernels/sample_tokens.h"
#include "tensor/device.h"

namespace unigrpo::rollout {
namespace {

struct Actions {
  at::Tensor ids, log_probs, entropy;  // [B] int64, float32, float32
};

/// In one copy: float64 holds all three without rounding.
Actions brought_home(const Actions& actions) {
  if (actions.ids.is_cpu()) return actions;
  const at::Tensor all =
      at::stack({actions.ids.to(at::kDouble), actions.log_probs.to(at::kDouble), actions.entropy.to(at::kDouble)})
          .cpu();  // [3, B]
  return {all[0].to(at::kLong), all[1].to(at::kFloat), all[2].to(at::kFloat)};
}

}  // namespace

TextRow::TextRow(policy::Context* context_, const StreamKey& key, int64_t max_tokens)
    : context(context_), stream_(key), max_tokens_(max_tokens) {}

TextRow::TextRow(policy::Context* context_, std::vector<int64_t> forced_ids)
    : context(context_), stream_(StreamKey{}), max_tokens_(0), closing_(true) {
  segment.ids = std::move(forced_ids);
  segment.finished = true;
  segment.teacher_forced = true;
}

at::Tensor truncated(const at::Tensor& logits, double temperature, const Truncation& truncation) {
  constexpr double kOut = -std::numeric_limits<double>::infinity();
  at::Tensor kept = logits.to(at::kDouble) / temperature;  // [N, V]
  if (truncation.top_k > 0 && truncation.top_k < logits.size(1)) {
    const at::Tensor least = std::get<0>(kept.topk(truncation.top_k, -1)).narrow(1, truncation.top_k - 1, 1);
    kept = kept.masked_fill(kept < least, kOut);
  }
  if (truncation.top_p < 1) {
    const auto [sorted, order] = at::sort(kept, /*stable=*/true, /*dim=*/-1, /*descending=*/true);
    const at::Tensor probs = sorted.softmax(-1);
    at::Tensor out = probs.cumsum(-1) - probs >= truncation.top_p;  // by what is likelier
    out.select(1, 0).fill_(false);
    kept = kept.masked_fill(at::empty_like(out).scatter_(1, order, out), kOut);
  }
  if (truncation.min_p > 0) {
    const at::Tensor probs = kept.softmax(-1);
    kept = kept.masked_fill(probs < truncation.min_p * probs.amax(-1, /*keepdim=*/true), kOut);
  }
  return logits.masked_fill(kept == kOut, kOut);
}

void decode_step(policy::TextPolicy& policy, std::span<TextRow* const> rows, double temperature,
                 const Truncation& truncation) {
  const at::NoGradGuard no_grad;
  std::vector<policy::Context*> contexts;
  std::vector<std::vector<int64_t>> inputs;
  for (TextRow* row : rows) {
    if (row->next_input.empty()) {
      row->next_input = {policy.bos_id()};
      if (row->segment.teacher_forced) {
        row->next_input.insert(row->next_input.end(), row->segment.ids.begin(), row->segment.ids.end());
      }
    }
    contexts.push_back(row->context);
    inputs.push_back(row->next_input);
  }
  const at::Tensor logits = policy.append_text(contexts, inputs).contiguous();  // [B, V]
  std::vector<double> uniforms;
  for (TextRow* row : rows) uniforms.push_back(row->closing_ ? 0.0 : row->stream_.uniform());
  const bool greedy = temperature == 0;
  const auto draw = [&] {
    const at::Tensor drawn_from = truncation.any() ? truncated(logits, temperature, truncation) : logits;
    const at::Tensor at_uniforms = tensor::sent(at::tensor(uniforms, at::kDouble), logits.device());
    return kernels::sample_tokens(drawn_from, at_uniforms, temperature);
  };
  const at::Tensor drawn = greedy ? logits.argmax(-1) : draw();
  const kernels::TokenLogProbs scored = kernels::gather_log_prob(logits, drawn, greedy ? 1.0 : temperature);
  const Actions actions = brought_home({drawn, scored.log_probs, scored.entropy});
  const auto* chosen = actions.ids.const_data_ptr<int64_t>();
  const auto* log_probs = actions.log_probs.const_data_ptr<float>();
  const auto* entropy = actions.entropy.const_data_ptr<float>();
  for (size_t i = 0; i < rows.size(); ++i) {
    TextRow& row = *rows[i];
    if (row.closing_) {
      row.finished = true;
      continue;
    }
    row.segment.ids.push_back(chosen[i]);
    row.log_probs_.push_back(log_probs[i]);
    row.entropy_.push_back(entropy[i]);
    row.segment.finished = chosen[i] == policy.eos_id();
    row.next_input = {chosen[i]};
    if (row.segment.finished || static_cast<int64_t>(row.segment.ids.size()) == row.max_tokens_) {
      // A truncated text is closed like any other, but its end token is nobody's action.
      row.closing_ = true;
      if (!row.segment.finished) row.next_input.push_back(policy.eos_id());
      row.segment.log_probs = at::tensor(row.log_probs_);
      row.segment.entropy = at::tensor(row.entropy_);
    }
  }
}

}  // namespace unigrpo::rollout

// BAGEL's packed forward over whole sequences: what training differentiates.
#include <ATen/ATen.h>

#include <numeric>

#include "policy/bagel/bagel.h"
#include "policy/placement.h"
#include "tensor/convert.h"

namespace unigrpo::policy {

using tensor::index_tensor;

at::Tensor Bagel::velocity_of(const at::Tensor& hidden, const PackedTokens& tokens, const Placement& placed) const {
  if (!tokens.share) return llm2vae_(hidden.narrow(0, placed.num_und, placed.num_noisy)).to(at::kFloat);
  std::vector<int64_t> rows(static_cast<size_t>(placed.num_noisy));
  std::iota(rows.begin(), rows.end(), placed.num_und);
  const at::Tensor held = hidden.index_select(0, index_tensor(tokens.share->held(rows), device()));
  return tokens.share->gathered(llm2vae_(held).to(at::kFloat), rows, nn::GatheredGradient::alike);
}

TrainOutput Bagel::forward_train(const TrainBatch& batch) {
  const Placement placed(batch, image_start_, image_end_);
  at::Tensor ids = index_tensor(placed.und_ids), vision_rows = index_tensor(placed.vision_rows),
             text_rows = index_tensor(placed.text_rows);
  at::Tensor noisy, noisy_t;  // [sum of S, L, C], [sum of S]
  if (!placed.noisy.empty()) {
    std::vector<at::Tensor> latents, times;
    for (const NoisyBlock* block : placed.noisy) {
      latents.push_back(block->latents);
      times.push_back(block->t);
    }
    noisy = at::cat(latents, 0);
    noisy_t = at::cat(times, 0);
  }
  const PackedTokens tokens = packed(placed, batch.update, {&ids, &vision_rows, &text_rows, &noisy, &noisy_t});
  at::Tensor und = llm_->embed(ids);
  if (!placed.vision.empty()) {
    und = und.index_copy(0, vision_rows, embed_vision(placed.vision).to(und.scalar_type()));
  }
  std::vector<at::Tensor> embeds = {und};
  if (noisy.defined()) embeds.push_back(embed_latents(noisy, noisy_t, placed.noisy.front()->grid));
  if (!placed.clean.empty()) embeds.push_back(embed_clean_latents(placed.clean));
  const at::Tensor hidden = hidden_of(embeds.size() == 1 ? und : at::cat(embeds, 0), tokens);
  TrainOutput output;
  output.digests = placed.digests;
  if (!placed.text_rows.empty()) output.text_hidden = text_hidden(hidden, tokens, placed, text_rows);
  if (noisy.defined()) output.velocity = velocity_of(hidden, tokens, placed).view(noisy.sizes());
  return output;
}

}  // namespace unigrpo::policy

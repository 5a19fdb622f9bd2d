// BAGEL's packed forward over whole sequences: what training differentiates.
#include <ATen/ATen.h>

#include <numeric>
#include <tuple>

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

MotPolicy::TrainForward Bagel::begin_train(const TrainBatch& batch) const {
  TrainForward forward{.placed = Placement(batch, image_start_, image_end_)};
  const Placement& placed = forward.placed;
  forward.ids = index_tensor(placed.und_ids);
  forward.vision_rows = index_tensor(placed.vision_rows);
  forward.text_rows = index_tensor(placed.text_rows);
  if (!placed.noisy.empty()) {
    std::vector<at::Tensor> latents, times;
    for (const NoisyBlock* block : placed.noisy) {
      latents.push_back(block->latents);
      times.push_back(block->t);
    }
    forward.noisy = at::cat(latents, 0);
    forward.noisy_t = at::cat(times, 0);
  }
  forward.tokens = packed(placed, batch.update,
                          {&forward.ids, &forward.vision_rows, &forward.text_rows, &forward.noisy, &forward.noisy_t});
  return forward;
}

at::Tensor Bagel::embeds_of(const TrainForward& forward) const {
  const Placement& placed = forward.placed;
  at::Tensor und = llm_->embed(forward.ids);
  if (!placed.vision.empty()) {
    und = und.index_copy(0, forward.vision_rows, embed_vision(placed.vision).to(und.scalar_type()));
  }
  std::vector<at::Tensor> embeds = {und};
  if (forward.noisy.defined()) {
    embeds.push_back(embed_latents(forward.noisy, forward.noisy_t, placed.noisy.front()->grid));
  }
  if (!placed.clean.empty()) embeds.push_back(embed_clean_latents(placed.clean));
  return embeds.size() == 1 ? und : at::cat(embeds, 0);
}

TrainOutput Bagel::finish_train(const TrainForward& forward, const at::Tensor& hidden) const {
  const auto& [placed, tokens, noisy] = std::tie(forward.placed, forward.tokens, forward.noisy);
  TrainOutput output;
  output.digests = placed.digests;
  if (!placed.text_rows.empty()) output.text_hidden = text_hidden(hidden, tokens, placed, forward.text_rows);
  if (noisy.defined()) output.velocity = velocity_of(hidden, tokens, placed).view(noisy.sizes());
  return output;
}

std::vector<std::string> Bagel::head_names() const {
  std::vector<std::string> names = MotPolicy::head_names();
  for (const char* part : {".weight", ".bias"}) names.push_back(llm2vae_.name + part);
  return names;
}

}  // namespace unigrpo::policy

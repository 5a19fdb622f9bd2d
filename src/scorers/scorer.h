#pragma once

#include <filesystem>
#include <memory>

#include "reward/reward.h"
#include "scorers/config.h"

namespace unigrpo::scorers {

/// A reward by the CLIP model in `folder`: of a sample's last image against its prompt, cos being the cosine of their
/// two embeddings. A sample without an image has no score.
///
/// | kind       | value                                            | parts                                        |
/// |------------|--------------------------------------------------|----------------------------------------------|
/// | clip_score | 100 * max(cos, 0)                                | `cosine`, not cut off at 0                   |
/// | pick_score | exp(logit_scale) * cos, about 20                 | `cosine`; `normalized`: value / 26           |
/// | hps        | cos, about 0.3                                   |                                              |
/// | aesthetic  | head(image embedding of length 1), about 1 to 10 |                                              |
///
/// clip_score: CLIPScore (arXiv 2104.08718) with the factor 100 of torchmetrics in place of 2.5. pick_score: arXiv
/// 2305.01569; 26 is what flow_grpo divides by. hps: HPSv2 (arXiv 2306.09341). aesthetic: LAION's predictors, v1
/// (linear) and v2 (MLP). The prompt is truncated to the model's length (77 tokens), as everywhere in the field; a note
/// says so. The aesthetic head stands in `aesthetic.safetensors` in the folder: `weight` and `bias` (linear), or
/// `layers.N.weight` and `layers.N.bias` applied one after the other, without activations between them (the published
/// MLP has none). Throws BadInput naming file and key or tensor.
std::unique_ptr<reward::Reward> make_scorer(ScorerKind kind, const std::filesystem::path& folder,
                                            const ScorerOptions& options = {});

}  // namespace unigrpo::scorers

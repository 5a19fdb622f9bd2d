#pragma once

#include <filesystem>
#include <memory>

#include "reward/reward.h"
#include "scorers/config.h"

namespace unigrpo::scorers {

/// The kinds that compare image and prompt: clip_score, pick_score, hps. See make_scorer.
std::unique_ptr<reward::Reward> make_similarity_scorer(ScorerKind kind, const std::filesystem::path& folder,
                                                       const ScorerOptions& options);

}  // namespace unigrpo::scorers

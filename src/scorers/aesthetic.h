#pragma once

#include <filesystem>
#include <memory>

#include "reward/reward.h"
#include "scorers/config.h"

namespace unigrpo::scorers {

/// The kind that judges the image alone: a head on the embedding of `folder`'s image tower. See make_scorer.
std::unique_ptr<reward::Reward> make_aesthetic_scorer(const std::filesystem::path& folder,
                                                      const ScorerOptions& options);

}  // namespace unigrpo::scorers

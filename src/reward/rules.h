#pragma once

#include <optional>
#include <span>
#include <string>

#include "base/conflict.h"
#include "data/segment_kind.h"
#include "reward/config.h"

namespace unigrpo::reward {

/// A term's own name, or its kind's.
std::string term_name(const TermConfig& term);

/// What a judge lacks, trained on or held out. key: "rewards.0".
std::optional<Conflict> validate(const TermConfig& term, const std::string& key);

/// What is wrong with [[rewards]] for episodes of these segments (none given: any).
std::optional<Conflict> validate(const RewardConfig& config, std::span<const data::SegmentKind> episode);

}  // namespace unigrpo::reward

#pragma once

#include <memory>

#include "reward/builtin/config.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// Rules for a sample's first text, in [-1, 1]: `rules` + `overlong`, both also parts of the score.
///
/// rules: 1 where the text has at least `min_tokens` sampled tokens and `pattern` is found in it (PCRE2, UTF-8; "."
/// takes line breaks; write \A and \z for the text's ends), else 0. overlong: the soft punishment of DAPO (arXiv
/// 2503.14476, section 3.4) on the number L of sampled tokens,
///
///   0 for L <= max - cache,   (max - cache - L) / cache for L <= max,   -1 beyond,
///
/// with max = `max_tokens` (0: never punished) and cache = `overlong_cache`. A sample without a text breaks the rules:
/// 0.
///
/// Throws BadInput for a pattern that is none. A text on which the pattern needs too many steps has no score.
std::unique_ptr<Reward> make_text_rules_reward(const TextRulesConfig& config);

}  // namespace unigrpo::reward

#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "reward/reward.h"

namespace unigrpo::reward {

/// What a text answers: what follows its last "</think>", blanks, a full stop and case aside.
std::string answer_of(std::string_view text);

/// 1 where the sample's last text answers what `metadata.answer` of its row says (a text, or a list of texts of which
/// one is enough), else 0. A truncated text answers nothing. For questions with a checkable answer.
std::unique_ptr<Reward> make_answer_reward();

}  // namespace unigrpo::reward

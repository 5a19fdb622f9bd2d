#pragma once

#include <memory>

#include "base/signals.h"
#include "reward/builtin/detector.h"
#include "reward/config.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// Asks a judge over HTTP as [rewards.http] says: format json (make_json_judge) or chat (make_chat_judge). What
/// the judge did not answer in time, or not as docs/HTTP_JUDGES.md has it, has no score and the cause as reason. Throws
/// BadInput where the settings cannot be used: no URL, a variable that is not set, a pattern that is none; and where
/// nobody answers, unless http.probe is off.
std::unique_ptr<Reward> make_http_reward(const TermConfig& term, StopToken stop = {});

/// A detector of one's own behind HTTP, for geneval and edit; request and answer stand in docs/HTTP_JUDGES.md. Throws
/// like make_http_reward.
std::unique_ptr<Detector> make_http_detector(const TermConfig& term, StopToken stop = {});

}  // namespace unigrpo::reward

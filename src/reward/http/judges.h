#pragma once

#include <memory>
#include <string>

#include "base/signals.h"
#include "reward/builtin/detector.h"
#include "reward/http/config.h"
#include "reward/reward.h"

/// The parts of http_reward.h; all throw BadInput for settings that cannot be used.
namespace unigrpo::reward {

/// Posts batches of samples under the reward's name and reads a score for each, with named dimensions, a reason and
/// notes.
std::unique_ptr<Reward> make_json_judge(const std::string& name, const EndpointConfig& endpoint,
                                        const JudgeConfig& judge, StopToken stop);

/// Asks a language model behind OpenAI's /chat/completions about one sample a request, and takes a number out of its
/// reply. The note "reply" keeps what it wrote.
std::unique_ptr<Reward> make_chat_judge(const EndpointConfig& endpoint, const JudgeConfig& judge, StopToken stop);

/// Posts batches of images and reads the objects in each.
std::unique_ptr<Detector> make_remote_detector(const EndpointConfig& endpoint, StopToken stop);

}  // namespace unigrpo::reward

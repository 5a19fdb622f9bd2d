#include "reward/http/http_reward.h"

#include <string>

#include "base/error.h"
#include "reward/http/judges.h"
#include "reward/rules.h"

namespace unigrpo::reward {
namespace {

/// What `make` makes for the term; a BadInput that it throws then names the term.
template <typename Make>
auto named(const TermConfig& term, const Make& make) {
  try {
    return make();
  } catch (const BadInput& error) {
    throw BadInput("reward '{}': {}", term_name(term), error.what());
  }
}

}  // namespace

std::unique_ptr<Reward> make_http_reward(const TermConfig& term, StopToken stop) {
  return named(term, [&] {
    return term.judge.format == HttpFormat::chat ? make_chat_judge(term.http, term.judge, stop)
                                                 : make_json_judge(term.name, term.http, term.judge, stop);
  });
}

std::unique_ptr<Detector> make_http_detector(const TermConfig& term, StopToken stop) {
  return named(term, [&] { return make_remote_detector(term.http, stop); });
}

}  // namespace unigrpo::reward

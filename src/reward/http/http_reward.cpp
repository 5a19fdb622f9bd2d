#include "reward/http/http_reward.h"

#include <string>

#include "base/error.h"
#include "reward/http/judges.h"

namespace unigrpo::reward {
namespace {

/// What `make` makes of the term; a BadInput that it throws then names the term.
template <typename Make>
auto named(const TermConfig& term, const Make& make) {
  try {
    return make(term);
  } catch (const BadInput& error) {
    throw BadInput("reward '{}': {}", term.name.empty() ? enum_name(term.kind) : term.name, error.what());
  }
}

}  // namespace

std::unique_ptr<Reward> make_http_reward(const TermConfig& term) {
  return named(term, term.http.format == HttpFormat::chat ? make_chat_judge : make_json_judge);
}

std::unique_ptr<Detector> make_http_detector(const TermConfig& term) { return named(term, make_remote_detector); }

}  // namespace unigrpo::reward

#include "train/rank_meter.h"

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

#include "parallel/comm.h"
#include "runtime/ranks.h"

namespace unigrpo::train {
namespace {

int64_t bytes_sent(const parallel::Comm& comm) {
  int64_t bytes = 0;
  for (const auto& [purpose, totals] : comm.calls().totals()) bytes += totals.bytes;
  return bytes;
}

/// What a rank says of its step.
struct Seen {
  double peak_bytes = 0, state_bytes = 0, bytes_sent = 0;
  std::map<parallel::CallPlace, double> calls = {};  // seconds in it
};

template <typename Bytes, SameAs<Seen> T>
void fields(Bytes& bytes, T& seen) {
  bytes(seen.peak_bytes, seen.state_bytes, seen.bytes_sent, seen.calls);
}

}  // namespace

void RankMeter::begin() {
  if (!runtime_.comm) return;
  runtime_.comm->calls().take_seconds();
  bytes_before_ = bytes_sent(*runtime_.comm);
}

void RankMeter::measure(double seconds, Metrics& out) {
  Seen own{.peak_bytes = peak_bytes(runtime_.device), .state_bytes = static_cast<double>(state_bytes_)};
  if (runtime_.comm) {
    own.bytes_sent = static_cast<double>(bytes_sent(*runtime_.comm) - bytes_before_);
    own.calls = runtime_.comm->calls().take_seconds();
  }
  const std::vector<Seen> all = gather(runtime_, own, "metrics");
  double peak = 0, state = 0, sent = 0, working = 0;
  std::vector<double> waited(all.size(), 0.0);
  for (const Seen& seen : all) {
    peak = std::max(peak, seen.peak_bytes);
    state = std::max(state, seen.state_bytes);
    sent += seen.bytes_sent;
  }
  std::map<parallel::CallPlace, double> shortest;
  for (const Seen& seen : all) {
    for (const auto& [call, in_it] : seen.calls) {
      const auto [found, is_new] = shortest.try_emplace(call, in_it);
      if (!is_new) found->second = std::min(found->second, in_it);
    }
  }
  for (const auto& [call, in_it] : own.calls) working += shortest.at(call);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    for (const auto& [call, in_it] : all[rank].calls) waited[rank] += in_it - shortest.at(call);
  }
  out["memory/peak_bytes"] = peak;
  out["memory/state_bytes"] = state;
  if (!runtime_.comm || seconds <= 0) return;
  const auto [least, most] = std::ranges::minmax_element(waited);
  out["parallel/bytes_sent"] = sent;
  out["parallel/comm_share"] = working / seconds;
  out["parallel/wait_share_min"] = *least / seconds;
  out["parallel/wait_share_max"] = *most / seconds;
  out["parallel/slowest_rank"] = static_cast<double>(least - waited.begin());
}

}  // namespace unigrpo::train

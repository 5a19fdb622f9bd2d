#include "parallel/calls.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace unigrpo::parallel {
namespace {

constexpr size_t kMostSeconds = 1 << 16;

}  // namespace

void CallRecord::begin(Call call) {
  const std::lock_guard lock(mutex_);
  call.number = ++count_;
  ring_[(count_ - 1) % kKept] = std::move(call);
}

void CallRecord::end(double now_s, int64_t bytes) {
  const std::lock_guard lock(mutex_);
  Call& call = ring_[(count_ - 1) % kKept];
  call.end_s = now_s;
  CallTotals& totals = totals_[call.purpose];
  ++totals.calls;
  totals.bytes += bytes;
  totals.seconds += now_s - call.start_s;
  if (seconds_.size() < kMostSeconds) seconds_.emplace(call.place, now_s - call.start_s);
}

uint64_t CallRecord::count() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

std::vector<Call> CallRecord::last() const {
  const std::lock_guard lock(mutex_);
  std::vector<Call> calls;
  for (uint64_t number = count_ - std::min<uint64_t>(count_, kKept); number < count_; ++number) {
    calls.push_back(ring_[number % kKept]);
  }
  return calls;
}

std::map<std::string, CallTotals> CallRecord::totals() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

std::map<CallPlace, double> CallRecord::take_seconds() {
  const std::lock_guard lock(mutex_);
  return std::exchange(seconds_, {});
}

std::string CallRecord::table() const {
  std::string text = "call\tstep\tphase\tkind\tpurpose\twhat\tstart_s\tend_s\n";
  for (const Call& call : last()) {
    text +=
        fmt::format("{}\t{}\t{}\t{}\t{}\t{}\t{:.6f}\t{}\n", call.number, call.step, call.phase, call.kind, call.purpose,
                    call.what, call.start_s, call.end_s < 0 ? "not ended" : fmt::format("{:.6f}", call.end_s));
  }
  return text;
}

}  // namespace unigrpo::parallel

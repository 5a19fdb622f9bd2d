#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace unigrpo::parallel {

/// The same on all ranks of a group for the same call.
struct CallPlace {
  uint64_t group = 0;  // 0: all ranks; else a hash of its name and ranks
  uint64_t place = 0;  // from 1, of the group's calls
  auto operator<=>(const CallPlace&) const = default;
};

template <typename Bytes, SameAs<CallPlace> T>
void fields(Bytes& bytes, T& call) {
  bytes(call.group, call.place);
}

/// A collective call of this rank.
struct Call {
  uint64_t number = 0;  // from 1, of this rank in whatever group
  CallPlace place = {};
  const char* kind = "";
  std::string purpose = {};
  std::string phase = {};
  int64_t step = 0;
  std::string what = {};           // "Float [4096]"
  double start_s = 0, end_s = -1;  // seconds since the meeting; end < 0: still in it
};

/// Of all calls with one purpose.
struct CallTotals {
  int64_t calls = 0;
  int64_t bytes = 0;   // that this rank sent
  double seconds = 0;  // in the calls, waiting for other ranks included
};

/// What this rank has called: the last 200 calls, and totals by purpose. Safe from several threads.
class CallRecord {
 public:
  static constexpr size_t kKept = 200;

  void begin(Call call);
  /// Of the call begun last.
  void end(double now_s, int64_t bytes);

  uint64_t count() const;
  std::vector<Call> last() const;  // oldest first
  std::map<std::string, CallTotals> totals() const;
  /// Seconds in each call that has ended since this was last asked; at most 65536 are kept.
  std::map<CallPlace, double> take_seconds();
  /// A table of last(), for a hang report.
  std::string table() const;

 private:
  mutable std::mutex mutex_;
  uint64_t count_ = 0;
  std::array<Call, kKept> ring_;
  std::map<std::string, CallTotals> totals_;
  std::map<CallPlace, double> seconds_;  // not yet taken
};

}  // namespace unigrpo::parallel

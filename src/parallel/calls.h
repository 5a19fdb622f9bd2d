#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace unigrpo::parallel {

/// A collective call of this rank.
struct Call {
  uint64_t number = 0;  // from 1; the same on all ranks for the same call
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
  /// Seconds in each call that has ended since this was last asked, by number; at most 65536 are kept.
  std::map<uint64_t, double> take_seconds();
  /// A table of last(), for a hang report.
  std::string table() const;

 private:
  mutable std::mutex mutex_;
  uint64_t count_ = 0;
  std::array<Call, kKept> ring_;
  std::map<std::string, CallTotals> totals_;
  std::map<uint64_t, double> seconds_;  // not yet taken
};

}  // namespace unigrpo::parallel

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace unigrpo::parallel {

/// Why a run cannot go on: the first thing that went wrong anywhere, the same on all ranks.
struct Verdict {
  enum class Kind { died, silent, late, failed, launcher };
  Kind kind = Kind::died;
  int64_t rank = -1;
  std::string text = {};  // "rank 2 is lost: its connection closed", "rank 1 failed: <its line>"
};

/// A socket over which watchers talk.
struct WatchSocket {
  int fd = -1;
  uint16_t port = 0;
};
/// Rank 0's; on the loopback interface alone, or on all. Throws RuntimeFailure.
WatchSocket listen_for_watchers(bool loopback);
/// Another rank's, to rank 0. Throws RuntimeFailure.
WatchSocket connect_to_watcher(const std::string& host, uint16_t port);

/// A thread beside a rank's own, which says every second that the rank is alive and how many calls it has made, and
/// learns when another rank is not: a rank's death closes its connection, one that is stopped falls silent, one that
/// hangs falls behind, one that fails says so. All are connected to rank 0's, which passes on what it learns. Has no
/// LibTorch in it.
class Watcher {
 public:
  struct Options {
    int64_t rank = 0, size = 1;
    std::string token = {};     // of this run: whoever connects without it is turned away
    std::string launcher = {};  // where it is, if it is the parent of this process and its end is to be seen here
    double beat_s = 1;
    double silence_s = 120;  // after which a rank counts as lost
    double grace_s = 2;      // for the rank to end by itself after a verdict
    /// Called on the watcher's thread, at once and before why() returns; and where the rank has not ended by itself.
    std::function<void(const Verdict&)> report = {}, abandon = {};
  };
  Watcher(Options options, WatchSocket socket);
  /// Says goodbye: from here on this rank's end is no loss.
  ~Watcher();
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  /// The calls that this rank has begun.
  void reached(uint64_t calls) { calls_ = calls; }
  /// For a call that failed, or whose deadline has passed (`late`): waits for the verdict, at most so long. The rank
  /// ends by itself then.
  /// `waited_for`: the one rank that the call was with; -1: several.
  std::optional<Verdict> why(bool late, double patience_s, int64_t waited_for = -1);
  /// This rank is about to end, whatever others say of it: nobody need end it.
  void ends_by_itself();
  /// This rank ends with an error of its own, which the others will quote. Back when that is on its way.
  void failed(const std::string& line);

 private:
  using Clock = std::chrono::steady_clock;
  struct Connection;

  void run();
  void say_own();
  void say(const std::string& line);
  void wait_for_events();
  void accept_new();
  void read_lines(Connection& from);
  void on_line(Connection& from, const std::string& line);
  void judge_late(int64_t asking, uint64_t calls, int64_t waited_for);
  void look_around();
  void decide(const Verdict& verdict);
  void wake() const;
  bool is_hub() const { return options_.rank == 0; }

  const Options options_;
  const WatchSocket socket_;
  const int parent_;
  int wake_ = -1;
  std::atomic<uint64_t> calls_{0};

  // The thread's own.
  std::vector<Connection> peers_;
  std::vector<int64_t> left_;  // ranks that have said goodbye
  Clock::time_point next_beat_, decided_;
  std::string verdict_line_;  // for those that come later
  bool broken_ = false, decided_once_ = false, abandoned_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Verdict> verdict_;
  std::vector<std::string> own_lines_;
  bool ends_by_itself_ = false, leaving_ = false;
  std::thread thread_;
};

}  // namespace unigrpo::parallel

#pragma once

#include <atomic>
#include <stdexcept>
#include <string_view>

namespace unigrpo {

/// A stop was asked for where there is nothing to save, or in work that is then dropped: exit code 130.
class Interrupted : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What `work` says of whether it is done; false where a stop ended it in the middle (Interrupted).
template <typename Work>
bool completed(const Work& work) {
  try {
    return work();
  } catch (const Interrupted&) {
    return false;
  }
}

/// Whether a process was asked to stop. A default one never is.
class StopToken {
 public:
  StopToken() = default;
  /// `signal`: 0, or the number of the signal that has come; outlives the token.
  explicit StopToken(std::atomic<int>& signal) : signal_(&signal) {}

  bool requested() const { return number() != 0; }
  /// Throws Interrupted where one was: for long work that has no other way out.
  void throw_if_requested() const;
  /// Of the signal that has come; 0 while none has.
  int number() const { return signal_ == nullptr ? 0 : signal_->load(); }
  /// "SIGTERM", ...; empty while none has come.
  std::string_view signal() const;
  /// Another rank of the run got this signal: it counts here too, unless one has come already.
  void request(int number) const;

 private:
  std::atomic<int>* signal_ = nullptr;
};

namespace signals {

/// From here on the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 (Slurm's warning) only sets the token's flag, for the loop
/// to save and leave; a second one ends the process at once with exit code 130. Call it in the main thread.
StopToken install();

/// The process that started this one passes on the signals that it gets itself. Whoever signals a whole job (a
/// terminal, Slurm, systemd) reaches both, and its one signal comes twice: what the parent sends is counted by itself.
void expect_from_parent();

}  // namespace signals

}  // namespace unigrpo

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

/// Whether a process was asked to stop. A default one never is.
class StopToken {
 public:
  StopToken() = default;
  /// `signal`: 0, or the number of the signal that has come; outlives the token.
  explicit StopToken(const std::atomic<int>& signal) : signal_(&signal) {}

  bool requested() const { return signal_ != nullptr && signal_->load() != 0; }
  /// Throws Interrupted where one was: for long work that has no other way out.
  void throw_if_requested() const;
  /// "SIGTERM", ...; empty while none has come.
  std::string_view signal() const;

 private:
  const std::atomic<int>* signal_ = nullptr;
};

namespace signals {

/// From here on the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 (Slurm's warning) only sets the token's flag, for the loop
/// to save and leave; a second one ends the process at once with exit code 130. Call it in the main thread.
StopToken install();

}  // namespace signals

}  // namespace unigrpo

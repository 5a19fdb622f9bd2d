#include "base/signals.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"

namespace unigrpo {
namespace {

constexpr std::array kHandled = {std::pair{SIGINT, "SIGINT"}, std::pair{SIGTERM, "SIGTERM"},
                                 std::pair{SIGHUP, "SIGHUP"}, std::pair{SIGUSR1, "SIGUSR1"}};

std::atomic<int> first_signal{0};     // that this process got
std::atomic<int> first_passed_on{0};  // by its launcher
std::atomic<pid_t> launcher{0};       // 0: nobody passes on signals
std::atomic<int> stop_requested{0};   // by it, or by another rank's
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<pid_t>::is_always_lock_free,
              "the handler may only touch lock-free atomics");

void on_signal(int signal_number, siginfo_t* info, void* /*context*/) {
  const bool sent = info->si_code == SI_USER || info->si_code == SI_TKILL || info->si_code == SI_QUEUE;
  std::atomic<int>& first = sent && info->si_pid == launcher ? first_passed_on : first_signal;
  int none = 0;
  if (!first.compare_exchange_strong(none, signal_number)) {
    _exit(static_cast<int>(ExitCode::interrupted));
  }
  none = 0;
  stop_requested.compare_exchange_strong(none, signal_number);
}

}  // namespace

StopToken signals::install() {
  // On a stack of its own: compiled matrix products of LibTorch's oneDNN use the stack pointer for other things, and a
  // handler's frame would land in the heap. A signal to the process goes to its main thread.
  static std::array<std::byte, 128 << 10> stack;
  stack_t alternate{};
  alternate.ss_sp = stack.data();
  alternate.ss_size = stack.size();
  if (sigaltstack(&alternate, nullptr) != 0) {
    throw RuntimeFailure("cannot set a stack for signal handlers: {}", std::strerror(errno));
  }
  struct sigaction action {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;  // reads and writes under way go on; the loop asks the token
  sigemptyset(&action.sa_mask);
  for (const auto& [number, name] : kHandled) {
    if (sigaction(number, &action, nullptr) != 0) {
      throw RuntimeFailure("cannot handle {}: {}", name, std::strerror(errno));
    }
  }
  return StopToken(stop_requested);
}

void signals::expect_from_parent() { launcher = getppid(); }

void StopToken::throw_if_requested() const {
  if (requested()) throw Interrupted(std::string(signal()) + ": stopped before it was done");
}

std::string_view StopToken::signal() const {
  const int come = number();
  for (const auto& [number, name] : kHandled) {
    if (number == come) return name;
  }
  return {};
}

void StopToken::request(int number) const {
  int none = 0;
  if (signal_ != nullptr) signal_->compare_exchange_strong(none, number);
}

}  // namespace unigrpo

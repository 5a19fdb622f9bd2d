#include "base/signals.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace unigrpo::signals {
namespace {

constexpr std::array kHandled = {std::pair{SIGINT, "SIGINT"}, std::pair{SIGTERM, "SIGTERM"},
                                 std::pair{SIGHUP, "SIGHUP"}, std::pair{SIGUSR1, "SIGUSR1"}};

std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "the handler may only touch lock-free atomics");

void on_signal(int signal_number) {
  int none = 0;
  if (!first_signal.compare_exchange_strong(none, signal_number)) {
    _exit(static_cast<int>(ExitCode::interrupted));
  }
}

}  // namespace

void install() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // reads and writes under way go on; the loop looks at the flag
  sigemptyset(&action.sa_mask);
  for (const auto& [number, name] : kHandled) {
    if (sigaction(number, &action, nullptr) != 0) {
      throw RuntimeFailure("cannot handle {}: {}", name, std::strerror(errno));
    }
  }
}

bool stop_requested() { return first_signal.load() != 0; }

std::string_view stop_signal() {
  const int come = first_signal.load();
  for (const auto& [number, name] : kHandled) {
    if (number == come) return name;
  }
  return {};
}

}  // namespace unigrpo::signals

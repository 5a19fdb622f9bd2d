#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace unigrpo {

/// What the process answers with; `main` alone turns exceptions into these.
enum class ExitCode : int {
  done = 0,
  failed = 1,         // ours or the machine's
  bad_input = 2,      // the user can mend it
  try_again = 75,     // a peer was lost
  interrupted = 130,  // stopped after a committed checkpoint
};

/// Input that its owner can mend: one line naming file, key or tensor, what was found and what was
/// expected. Ends the process with exit code 2 and no stack.
class BadInput : public std::runtime_error {
 public:
  template <typename... Args>
  explicit BadInput(fmt::format_string<Args...> format, Args&&... args)
      : std::runtime_error(fmt::format(format, std::forward<Args>(args)...)) {}
};

/// A failure of the machine or of ours (disk full, a signal, a broken invariant): exit code 1.
class RuntimeFailure : public std::runtime_error {
 public:
  template <typename... Args>
  explicit RuntimeFailure(fmt::format_string<Args...> format, Args&&... args)
      : std::runtime_error(fmt::format(format, std::forward<Args>(args)...)) {}
};

}  // namespace unigrpo

#pragma once

#include <exception>
#include <string>

#include "base/error.h"

namespace unigrpo {

/// Another rank of the run is gone or does not answer: nothing to mend here, and starting again goes on from the last
/// checkpoint (exit code 75).
class PeerLost : public RuntimeFailure {
 public:
  using RuntimeFailure::RuntimeFailure;
};

/// How an exception ends the process: its exit code, and one line for stderr.
struct Failure {
  ExitCode code = ExitCode::failed;
  std::string line;
};

/// Nested exceptions are joined outermost first by ": ". The outermost of them that is a BadInput, a PeerLost, a
/// RuntimeFailure or Interrupted decides the exit code (bad_input, try_again, failed, interrupted); without either it
/// is failed. Control characters are escaped, so that the line is one line whatever a file name or a key holds; the
/// stack that LibTorch appends to its messages is left out.
Failure describe_failure(const std::exception& error);

}  // namespace unigrpo

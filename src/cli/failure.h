#pragma once

#include <exception>
#include <string>

#include "base/error.h"

namespace unigrpo::cli {

/// How an exception ends the process: its exit code, and one line for stderr.
struct Failure {
  ExitCode code = ExitCode::failed;
  std::string line;
};

/// Nested exceptions are joined outermost first by ": ". The outermost of them that is a BadInput, a RuntimeFailure
/// or Interrupted decides the exit code (bad_input, failed, interrupted); without either it is failed. Control
/// characters are escaped, so that the line is one line whatever a file name or a key holds.
Failure describe_failure(const std::exception& error);

}  // namespace unigrpo::cli

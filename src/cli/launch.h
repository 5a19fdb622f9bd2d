#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"

namespace unigrpo::cli {

struct LaunchOptions {
  int64_t num_ranks = 0, max_restarts = 0;
  std::string log_dir;
  std::vector<std::string> command;  // of each rank, without the program
};

/// How one rank ended.
struct RankEnd {
  int code = 0;              // where it ended by itself
  int signal = 0;            // what killed it
  bool by_launcher = false;  // after a signal that the launcher had sent it, or passed on
};

/// What the job ends with: 0 if all are 0; else 2 if any is 2; else 1 if any is 1, or a code of no meaning here (a
/// cause that a restart repeats); else 75 if a rank was lost or says 75; else 130.
ExitCode job_code(const std::vector<RankEnd>& ends);

}  // namespace unigrpo::cli

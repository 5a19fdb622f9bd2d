#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/runtime.h"
#include "support/ranks.h"

namespace unigrpo::test {

/// Runs `work` on ranks that are threads of this process, each with the runtime of its rank; one has none. Returns what
/// each threw,
/// "" where nothing.
inline std::vector<std::string> run_runtimes(int64_t size, const std::function<void(const Runtime&)>& work) {
  if (size == 1) return run_threads(1, [&](int64_t) { work({.threads = 1}); });
  return run_ranks(size, [&](parallel::Comm& comm) {
    const Runtime runtime{.mesh = {.rank = comm.rank(), .world_size = comm.size()},
                          .comm = std::shared_ptr<parallel::Comm>(&comm, [](parallel::Comm*) {}),
                          .threads = 1};
    work(runtime);
  });
}

}  // namespace unigrpo::test

#include "runtime/ranks.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/signals.h"
#include "parallel/comm.h"

namespace unigrpo {
namespace {

/// Takes the values of all ranks together, name by name.
template <typename Join>
Values joined(const Runtime& runtime, const Values& mine, const char* purpose, Join join) {
  if (!runtime.comm) return mine;
  Values all;
  for (const Values& of_rank : gather(runtime, mine, purpose)) {
    for (const auto& [name, value] : of_rank) {
      const auto [found, is_new] = all.emplace(name, value);
      if (!is_new) found->second = join(found->second, value);
    }
  }
  return all;
}

}  // namespace

std::vector<std::string> gather_bytes(const Runtime& runtime, std::string mine, const char* purpose) {
  if (!runtime.comm) return {std::move(mine)};
  return runtime.comm->gather_bytes(std::move(mine), purpose);
}

void all_reduce(const Runtime& runtime, at::Tensor& tensor, const char* purpose) {
  if (runtime.comm) runtime.comm->all_reduce(tensor, purpose);
}

Values summed(const Runtime& runtime, const Values& mine, const char* purpose) {
  return joined(runtime, mine, purpose, [](double a, double b) { return a + b; });
}

Values largest(const Runtime& runtime, const Values& mine, const char* purpose) {
  return joined(runtime, mine, purpose, [](double a, double b) { return a != a || a > b ? a : b; });
}

void enter(const Runtime& runtime, int64_t step, const std::string& phase) {
  if (runtime.comm) runtime.comm->enter(step, phase);
}

void on_root(const Runtime& runtime, int64_t step, const char* purpose, const std::function<void()>& work) {
  enter(runtime, step, "save");
  const auto root_works = [&] {
    if (is_root(runtime)) work();
    return true;
  };
  const bool done = uninterrupted(runtime, root_works, purpose);
  if (!done) throw Interrupted(fmt::format("{}: {} was being written", runtime.stop.signal(), purpose));
}

bool uninterrupted(const Runtime& runtime, const std::function<bool()>& work, const char* purpose) {
  return !any_stopped(runtime, !completed(work), purpose);
}

void agree(const Runtime& runtime, const std::exception_ptr& mine, const char* purpose) {
  runtime.comm->vote(mine, purpose);
}

bool any_stopped(const Runtime& runtime, bool here, const char* purpose) {
  for (const int signal : gather(runtime, here ? std::max(1, runtime.stop.number()) : 0, purpose)) {
    if (signal == 0) continue;
    runtime.stop.request(signal);
    return true;
  }
  return false;
}

}  // namespace unigrpo

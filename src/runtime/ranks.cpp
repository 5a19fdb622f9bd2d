#include "runtime/ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "base/signals.h"
#include "parallel/comm.h"
#include "parallel/groups.h"

namespace unigrpo {
namespace {

/// One value a rank of the group, on all of them.
template <typename T>
std::vector<T> gather_in(parallel::Comm& group, const T& mine, const char* purpose) {
  std::vector<T> all;
  for (const std::string& bytes : group.gather_bytes(to_bytes(mine), purpose)) from_bytes(bytes, all.emplace_back());
  return all;
}

/// Takes the values of all shares together, name by name.
template <typename Join>
Values joined(const Runtime& runtime, const Values& mine, const char* purpose, Join join) {
  const auto& comm = runtime.groups ? runtime.groups->data : runtime.comm;
  if (!comm) return mine;
  Values all;
  for (const Values& of_rank : gather_in(*comm, mine, purpose)) {
    for (const auto& [name, value] : of_rank) {
      const auto [found, is_new] = all.emplace(name, value);
      if (!is_new) found->second = join(found->second, value);
    }
  }
  return all;
}

/// Where one of the signals, a rank's each, is not 0, that is asked for here too.
bool take_stop(const Runtime& runtime, std::span<const int> signals) {
  for (const int signal : signals) {
    if (signal == 0) continue;
    runtime.stop.request(signal);
    return true;
  }
  return false;
}

/// Of the ranks with the same sequences.
int64_t model_size(const Runtime& runtime) { return shares_sequences(runtime) ? runtime.groups->model->size() : 1; }

}  // namespace

bool shares_sequences(const Runtime& runtime) { return runtime.groups && runtime.groups->model; }
int64_t num_shares(const Runtime& runtime) { return runtime.mesh.world_size / model_size(runtime); }
int64_t share_of(const Runtime& runtime, int64_t rank) { return rank / model_size(runtime); }
int64_t own_share(const Runtime& runtime) { return share_of(runtime, runtime.mesh.rank); }
bool tells_share(const Runtime& runtime) { return runtime.mesh.rank % model_size(runtime) == 0; }

bool has_stages(const Runtime& runtime) { return runtime.groups && runtime.groups->pipeline; }
bool in_last_stage(const Runtime& runtime) {
  return !has_stages(runtime) || runtime.groups->stage + 1 == runtime.groups->shape.stages();
}

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
  const int signal = here ? std::max(1, runtime.stop.number()) : 0;
  return take_stop(runtime, gather(runtime, signal, purpose));
}

bool stop_before_pass(const Runtime& runtime) {
  if (!shares_sequences(runtime)) return runtime.stop.requested();
  return take_stop(runtime, gather_in(*runtime.groups->model, runtime.stop.number(), "stop"));
}

}  // namespace unigrpo

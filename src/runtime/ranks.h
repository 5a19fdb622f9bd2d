#pragma once

#include <ATen/core/Tensor.h>

#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "runtime/runtime.h"

/// What the ranks of a run tell each other. All of them make the same calls in the same order; `purpose` names a call
/// where one does not come. One process answers itself, at no cost and with the same bits.
namespace unigrpo {

/// Whether this rank owns the run folder and speaks for all.
inline bool is_root(const Runtime& runtime) { return runtime.mesh.rank == 0; }

/// Whether several ranks work on the same sequences (parallel::Groups::model): they hold the same samples and make the
/// same calls, so that none of them may leave a forward pass alone.
bool shares_sequences(const Runtime& runtime);
/// What is dealt, samples and rows, is dealt to this many; ranks that share sequences count once, and get the same.
int64_t num_shares(const Runtime& runtime);
int64_t own_share(const Runtime& runtime);
/// The share of another rank.
int64_t share_of(const Runtime& runtime, int64_t rank);
/// Whether this is the first of the ranks that have its share, which speaks for them.
bool tells_share(const Runtime& runtime);

/// Whether the layers are divided among stages of ranks (parallel::Groups::pipeline); whether this rank is of the last
/// one, as it is where there are none.
bool has_stages(const Runtime& runtime);
bool in_last_stage(const Runtime& runtime);

/// One string a rank, on all ranks.
std::vector<std::string> gather_bytes(const Runtime& runtime, std::string mine, const char* purpose);

/// One value a rank, on all ranks.
template <typename T>
std::vector<T> gather(const Runtime& runtime, const T& mine, const char* purpose) {
  if (!runtime.comm) return {mine};
  std::vector<T> all;
  for (const std::string& bytes : gather_bytes(runtime, to_bytes(mine), purpose)) from_bytes(bytes, all.emplace_back());
  return all;
}

/// The root's value; the others' does not matter.
template <typename T>
T from_root(const Runtime& runtime, const T& mine, const char* purpose) {
  if (!runtime.comm) return mine;
  T value = mine;
  from_bytes(gather_bytes(runtime, is_root(runtime) ? to_bytes(mine) : std::string(), purpose).front(), value);
  return value;
}

/// In place, the sum over ranks in their order, the same bits on all.
void all_reduce(const Runtime& runtime, at::Tensor& tensor, const char* purpose);

/// Of each name the sum, added in the order of shares, or the largest value. A name that one rank has is on all.
using Values = std::map<std::string, double>;
Values summed(const Runtime& runtime, const Values& mine, const char* purpose);
Values largest(const Runtime& runtime, const Values& mine, const char* purpose);

/// Whether any rank was cut short by a stop; then all are asked to stop.
bool any_stopped(const Runtime& runtime, bool here, const char* purpose = "stop");
/// Whether any rank is asked to stop; then all are.
inline bool stop_asked(const Runtime& runtime) { return any_stopped(runtime, runtime.stop.requested()); }

/// Whether a stop is asked for, in time before a forward pass: the ranks that share its sequences answer alike.
bool stop_before_pass(const Runtime& runtime);

/// What is being worked on from here on, for errors and deadlines.
void enter(const Runtime& runtime, int64_t step, const std::string& phase);
/// Runs `work` on the root while the others wait, for as long as a save may take. `step`: of the run. Where a stop ends
/// it in the middle, all throw Interrupted.
void on_root(const Runtime& runtime, int64_t step, const char* purpose, const std::function<void()>& work);

/// Whether `work` was done on all ranks: it says so itself, and Interrupted, which it may throw, says that it was not;
/// then all are asked to stop. It must not talk to other ranks.
bool uninterrupted(const Runtime& runtime, const std::function<bool()>& work, const char* purpose = "stop");

/// Throws the failure of the first rank that has one on all ranks; that rank's own is `mine`. A rank's bad input is
/// every rank's.
void agree(const Runtime& runtime, const std::exception_ptr& mine, const char* purpose);

/// What `make` returns, once all ranks have come through it. It must not talk to other ranks.
template <typename Make>
std::invoke_result_t<Make> together(const Runtime& runtime, const char* purpose, const Make& make) {
  if (!runtime.comm) return make();
  std::exception_ptr failure;
  if constexpr (std::is_void_v<std::invoke_result_t<Make>>) {
    try {
      make();
    } catch (...) {
      failure = std::current_exception();
    }
    agree(runtime, failure, purpose);
  } else {
    std::optional<std::invoke_result_t<Make>> made;
    try {
      made.emplace(make());
    } catch (...) {
      failure = std::current_exception();
    }
    agree(runtime, failure, purpose);
    return std::move(*made);
  }
}

}  // namespace unigrpo

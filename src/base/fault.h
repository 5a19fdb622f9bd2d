#pragma once

#include <atomic>
#include <optional>
#include <string_view>

namespace unigrpo::fault {

/// Fault points: named places where a test can make this process fail, by the environment variable
///   UNIGRPO_FAULT="point[@rank][:hit]=action,..."
/// `hit` counts passes from 1 (default 1) and fires once; `@rank` compares with RANK (default 0).
/// Actions: kill, segv, stop, exit, throw, enospc, eio, erofs, short, nan, inf, memory (none is left), delay:<ms>.
/// A spec that cannot be read throws BadInput at the first point. Off, a point costs one load.

/// What the code at a point has to act out itself.
struct Effect {
  int error = 0;                   // errno with which the system call "failed": ENOSPC, EIO or EROFS
  bool short_write = false;        // write only a part
  std::optional<double> bad = {};  // a NaN or infinity to be put into the value at hand
};

extern std::atomic<bool> enabled;
Effect passed(std::string_view name);

/// For code that can act out an Effect. kill, segv, stop, exit, throw and delay happen inside.
inline Effect effect(std::string_view name) {
  return enabled.load(std::memory_order_relaxed) ? passed(name) : Effect{};
}

/// For code that cannot: enospc, eio and erofs are thrown as RuntimeFailure, as are short, nan and inf,
/// which have no meaning there.
void point_slow(std::string_view name);
inline void point(std::string_view name) {
  if (enabled.load(std::memory_order_relaxed)) point_slow(name);
}

/// Replaces the specification and forgets all counts; "" switches off. For tests.
void configure(std::string_view specification);

}  // namespace unigrpo::fault

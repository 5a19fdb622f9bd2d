#pragma once

#include <string>

namespace unigrpo {

/// The stacks of all threads of this process, one after the other, for a report of a hang. A thread that is running,
/// the main thread apart, is only named: compiled matrix products use its stack pointer for other things, so that no
/// handler may interrupt it (base/signals.h). Not for a process that is to go on: what sleeps is woken once.
std::string thread_stacks();

}  // namespace unigrpo

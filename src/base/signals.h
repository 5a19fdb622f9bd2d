#pragma once

#include <string_view>

namespace unigrpo::signals {

/// From here on the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 (Slurm's warning) only sets a flag,
/// for the loop to save and leave; a second one ends the process at once with exit code 130.
void install();

/// True once a signal has come.
bool stop_requested();

/// "SIGTERM", ...; empty while none has come.
std::string_view stop_signal();

}  // namespace unigrpo::signals

#pragma once

#include <map>
#include <span>
#include <string>

#include "checkpoint/resume.h"
#include "checkpoint/save.h"
#include "runtime/stateful.h"

namespace unigrpo::parallel {
class Comm;
}

namespace unigrpo::checkpoint {

/// What a checkpoint at `step` (steps done) holds: each component's tensors as a part, its values as "<name>.<key>".
/// On several ranks (`ranks`; all of them call it) whole tensors are put together from their pieces, on rank 0 alone.
Snapshot take_snapshot(int64_t step, const std::string& recipe_toml, std::span<Stateful* const> components,
                       parallel::Comm* ranks = nullptr);

/// The values of one component.
std::map<std::string, std::string> values_of(const LoadedCheckpoint& loaded, const std::string& component);

/// Gives each component its state back. One of which the checkpoint holds nothing (a part of the run that was switched
/// on since) starts as it is. Throws BadInput naming the checkpoint and what does not fit.
void restore(std::span<Stateful* const> components, const LoadedCheckpoint& loaded);

}  // namespace unigrpo::checkpoint

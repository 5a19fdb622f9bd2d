#pragma once

#include <map>
#include <span>
#include <string>

#include "checkpoint/resume.h"
#include "checkpoint/snapshot.h"
#include "runtime/stateful.h"

namespace unigrpo::checkpoint {

/// What a checkpoint at `step` (steps done) holds: each component's tensors as a part, its values as "<name>.<key>".
Snapshot take_snapshot(int64_t step, const std::string& recipe_toml, std::span<Stateful* const> components);

/// The values of one component.
std::map<std::string, std::string> values_of(const LoadedCheckpoint& loaded, const std::string& component);

/// Gives each component its state back, in the pieces that it holds now, whoever wrote them. One of which the
/// checkpoint holds nothing (a part of the run that was switched on since) starts as it is. Throws BadInput naming the
/// checkpoint and what does not fit.
void restore(std::span<Stateful* const> components, const LoadedCheckpoint& loaded);

}  // namespace unigrpo::checkpoint

#pragma once

#include <map>
#include <string>

#include "checkpoint/snapshot.h"
#include "io/checkpoint_layout.h"
#include "runtime/runtime.h"

namespace unigrpo::checkpoint {

/// Which rank writes which elements, by part: each element once, by one of the ranks that hold it, in shares of about
/// the same number of bytes. All ranks call it and get the same. Throws RuntimeFailure, on all, where what should be
/// alike on all ranks is not, and where nobody holds some elements.
std::map<std::string, io::StoredTensors> deal(const Snapshot& snapshot, const Runtime& runtime);

/// What a rank writes by that: its elements under io::piece_name(), sharing memory with the snapshot.
std::map<std::string, NamedTensors> own_pieces(const Snapshot& snapshot,
                                               const std::map<std::string, io::StoredTensors>& dealt,
                                               const Runtime& runtime);

/// The same where one process holds everything: whole tensors.
std::map<std::string, NamedTensors> whole_tensors(const Snapshot& snapshot);

}  // namespace unigrpo::checkpoint

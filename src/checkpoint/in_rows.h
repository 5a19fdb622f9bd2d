#pragma once

#include "checkpoint/snapshot.h"
#include "runtime/runtime.h"

namespace unigrpo::checkpoint {

/// The snapshot without pieces of columns (PieceOf::width): the ranks that have a tensor's columns between them, which
/// have pieces of the same rows, exchange them for whole rows, a tensor at a time. All ranks call it.
Snapshot in_rows(Snapshot snapshot, const Runtime& runtime);

}  // namespace unigrpo::checkpoint

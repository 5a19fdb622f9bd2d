#pragma once

#include "optim/parameters.h"
#include "runtime/runtime.h"

namespace unigrpo::optim {

/// Sums the parameters' gradients over all ranks, in float32 and in the order of ranks: the same bits everywhere. A
/// parameter that has a gradient on one rank has one on all; one that has none anywhere stays without, since AdamW
/// leaves it alone. Nothing for one process, and for pieces, whose gradients a ShardedModel sums.
void sum_gradients(const Runtime& runtime, const NamedParameters& parameters);

}  // namespace unigrpo::optim

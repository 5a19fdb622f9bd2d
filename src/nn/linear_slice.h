#pragma once

#include <cstdint>

#include "nn/linear.h"

namespace unigrpo::nn {

/// The part `part` of `parts` of a linear layer, as views of its weights, adapter included: outputs, an even run of
/// them, or what an even run of inputs adds to all outputs, for a layer without bias.
Linear output_slice(const Linear& linear, int64_t part, int64_t parts);
Linear input_slice(const Linear& linear, int64_t part, int64_t parts);

}  // namespace unigrpo::nn

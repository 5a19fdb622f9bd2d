#pragma once

#include <cstdint>

#include "optim/adamw.h"
#include "optim/ema.h"
#include "tensor/named_tensor.h"
#include "train/objective.h"

namespace unigrpo::train {

/// Bytes of weights, gradients, the optimizer's state and averages that this rank holds from step to step.
int64_t state_bytes(Objective& objective, const NamedTensors& trained, const optim::AdamW& optimizer,
                    const optim::Ema& ema);

}  // namespace unigrpo::train

#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tensor/named_tensor.h"

namespace unigrpo::checkpoint {

/// All that a run needs to go on as if it had never stopped, as one rank has it: whole tensors and
/// counters are alike on all ranks, pieces are its own.
struct Snapshot {
  int64_t step = 0;  // steps finished
  std::string recipe_toml = {};
  std::map<std::string, NamedTensors> parts = {};    // "policy", "optimizer", "ema"; whole tensors and pieces
  std::map<std::string, std::string> counters = {};  // data position, skipped steps, ...
};

}  // namespace unigrpo::checkpoint

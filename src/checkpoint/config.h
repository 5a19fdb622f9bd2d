#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo::checkpoint {

UNIGRPO_ENUM(OnDiskFull, stop, UNIGRPO_SPELLED(proceed, "continue"));

struct CheckpointConfig {  // recipe: [checkpoint]
  int64_t every = 20;      // steps; 0 = only at the end
  int64_t keep_last = 2;
  OnDiskFull on_disk_full = OnDiskFull::stop;
  bool async = false;  // written while the run goes on, from a copy in host memory
};

}  // namespace unigrpo::checkpoint

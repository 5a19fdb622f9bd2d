#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo {

namespace checkpoint {

enum class OnDiskFull { stop, proceed };

struct CheckpointConfig {  // recipe: [checkpoint]
  int64_t every = 20;      // steps; 0 = only at the end
  int64_t keep_last = 2;
  OnDiskFull on_disk_full = OnDiskFull::stop;  // spelled stop | continue
};

}  // namespace checkpoint

template <>
struct EnumNames<checkpoint::OnDiskFull> {
  static constexpr std::array names = {std::pair{checkpoint::OnDiskFull::stop, "stop"},
                                       std::pair{checkpoint::OnDiskFull::proceed, "continue"}};
};

}  // namespace unigrpo

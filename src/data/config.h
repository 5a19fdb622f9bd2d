#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo {

namespace data {

struct DataConfig {     // recipe: [data]
  std::string prompts;  // prompt file
};

}  // namespace data

}  // namespace unigrpo

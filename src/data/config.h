#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo {

namespace data {

struct DataConfig {           // recipe: [data]
  std::string prompts;        // prompt file
  std::string text_features;  // of the prompts, for models whose text encoder is none of ours
  int64_t text_length = 0;    // that features are padded to; 0 = as long as they are
};

}  // namespace data

}  // namespace unigrpo

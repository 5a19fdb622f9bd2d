#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using data::DataConfig;

Section data_section() {
  return Builder("data", "prompts", [](Recipe& r, size_t) -> auto& { return r.data; })
      .row("prompts", &DataConfig::prompts, "prompt file (JSONL)", {}, kForTrain | kForSft)
      .row("text_features", &DataConfig::text_features,
           "LTX-2: a .safetensors file of text features, a tensor named by each prompt; empty: the model folder's own "
           "text encoder")
      .row("text_length", &DataConfig::text_length, "LTX-2: that features are padded to; 0: as long as they are",
           or_else(0, between(1, 65536)));
}

}  // namespace

std::vector<Section> data_sections() { return {data_section()}; }

}  // namespace unigrpo::recipe

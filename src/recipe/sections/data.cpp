#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using data::DataConfig;

Section data_section() {
  return Builder("data", "prompts", [](Recipe& r, size_t) -> auto& { return r.data; })
      .row("prompts", &DataConfig::prompts, "prompt file (JSONL)", {}, kForTrain | kForSft);
}

}  // namespace

std::vector<Section> data_sections() { return {data_section()}; }

}  // namespace unigrpo::recipe

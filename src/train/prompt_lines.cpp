#include "train/prompt_lines.h"

#include <nlohmann/json.hpp>

namespace unigrpo::train {

std::string world_line(const data::Prompt& prompt) {
  auto line = nlohmann::ordered_json::parse(prompt.metadata_json);
  line["prompt"] = prompt.text;
  return line.dump();
}

}  // namespace unigrpo::train

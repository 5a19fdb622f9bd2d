#pragma once

#include <string>

#include "data/prompt.h"

namespace unigrpo::train {

/// A prompt as the JSON line that the embedded world understands: its metadata with the text beside it.
std::string world_line(const data::Prompt& prompt);

}  // namespace unigrpo::train

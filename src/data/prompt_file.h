#pragma once

#include <filesystem>
#include <vector>

#include "data/prompt.h"

namespace unigrpo::data {

/// Reads a prompt file: JSONL (one object a line) for `.jsonl` / `.json`, otherwise one prompt a
/// line of text. Strict, see docs/FORMATS.md. Throws BadInput `file:line: ...`; an empty file is an
/// error.
std::vector<Prompt> read_prompt_file(const std::filesystem::path& path);

}  // namespace unigrpo::data

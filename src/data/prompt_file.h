#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "data/prompt.h"
#include "io/image.h"

namespace unigrpo::data {

/// Reads a prompt file: JSONL (one object a line) for `.jsonl` / `.json`, otherwise one prompt a
/// line of text. Strict, see docs/FORMATS.md. Throws BadInput `file:line: ...`; an empty file is an
/// error.
std::vector<Prompt> read_prompt_file(const std::filesystem::path& path);

/// `count` of the prompts, evenly spread over the file; all of them where there are no more.
std::vector<Prompt> spread_over(std::span<const Prompt> prompts, int64_t count);

/// The images of a prompt, in order. Throws BadInput naming the file that cannot be read.
std::vector<Image> read_prompt_images(const Prompt& prompt);
/// As a prompt's samples have them in common.
std::vector<std::shared_ptr<const Image>> shared_images(std::vector<Image> images);

}  // namespace unigrpo::data

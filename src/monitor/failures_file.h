#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace unigrpo::monitor {

/// A score that a reward did not give.
struct Failure {
  int64_t step = 0;
  std::string reward, sample, prompt, reason;  // the term's name, the sample's id, the prompt's text, the cause
};

/// Writes one JSON object a line to `file`, whole or not at all; its folder is made where missing.
void write_failures(const std::filesystem::path& file, std::span<const Failure> failures);

}  // namespace unigrpo::monitor

#pragma once

#include <ATen/ATen.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "checkpoint/resume.h"
#include "checkpoint/save.h"

namespace unigrpo::testing {

/// Where these tests write: in memory where that is possible. They look at the order of calls and at what a reader
/// finds, hundreds of times over; waiting for a disk's fsync adds nothing.
inline std::filesystem::path fast_folder() {
  const std::filesystem::path memory = "/dev/shm";
  const bool usable = std::filesystem::is_directory(memory) && ::access(memory.c_str(), W_OK) == 0;
  return usable ? memory : std::filesystem::temp_directory_path();
}

/// A small snapshot whose every value depends on the step.
inline checkpoint::Snapshot snapshot_of(int64_t step) {
  const double value = static_cast<double>(step);
  return {
      .step = step,
      .recipe_toml = "[run]\nname = \"test\"\n",
      .parts = {{"policy", {{"a", at::full({40, 3}, value)}, {"b", at::full({7}, value, at::kBFloat16)}}},
                {"optimizer", {{"a.exp_avg", at::full({40, 3}, -value)}, {"a.step", at::full({1}, step, at::kLong)}}},
                {"ema", {{"a", at::full({40, 3}, value / 2)}}}},
      .counters = {{"prompts", std::to_string(step * 8)}}};
}

/// Whether the checkpoint is `snapshot_of` its step, to the bit.
inline bool is_whole(const checkpoint::LoadedCheckpoint& found) {
  const checkpoint::Snapshot expected = snapshot_of(found.step);
  if (found.recipe_toml != expected.recipe_toml || found.counters != expected.counters) return false;
  if (found.parts.size() != expected.parts.size()) return false;
  for (const auto& [part, tensors] : expected.parts) {
    const optim::NamedParameters read = found.tensors(part);
    if (read.size() != tensors.size()) return false;
    for (size_t i = 0; i < read.size(); ++i) {
      if (read[i].name != tensors[i].name || !at::equal(read[i].tensor, tensors[i].tensor)) return false;
    }
  }
  return true;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}
inline void write_file(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

/// Flips one bit somewhere in the files, `trials` times, and back again after check(file, byte, trial).
inline void flip_bits(const std::vector<std::filesystem::path>& files, int trials, uint64_t seed,
                      const std::function<void(const std::filesystem::path&, uint64_t, int)>& check) {
  uint64_t total = 0;
  for (const auto& file : files) total += std::filesystem::file_size(file);
  RandomStream random({.seed = seed});
  for (int trial = 0; trial < trials; ++trial) {
    uint64_t place = random.below(total);
    size_t file = 0;
    while (place >= std::filesystem::file_size(files[file])) place -= std::filesystem::file_size(files[file++]);
    const std::string original = read_file(files[file]);
    std::string damaged = original;
    damaged[place] = static_cast<char>(damaged[place] ^ (1 << random.below(8)));
    write_file(files[file], damaged);
    check(files[file], place, trial);
    write_file(files[file], original);
  }
}

/// What a call's BadInput or RuntimeFailure says; empty where it throws neither.
template <typename F>
std::string failure_of(F&& call) {
  try {
    call();
  } catch (const BadInput& error) {
    return error.what();
  } catch (const RuntimeFailure& error) {
    return error.what();
  }
  return "";
}

}  // namespace unigrpo::testing

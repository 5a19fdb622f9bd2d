#include "io/step_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace unigrpo::io {
namespace {

constexpr std::string_view kPrefix = "step_";

}  // namespace

std::string step_name(int64_t step) { return fmt::format("{}{:06}", kPrefix, step); }

std::optional<int64_t> parse_step_name(std::string_view name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size());
  int64_t step = -1;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (result.ec != std::errc() || step < 0 || step_name(step) != name) return std::nullopt;
  return step;
}

std::vector<int64_t> list_steps(const std::filesystem::path& folder) {
  std::vector<int64_t> steps;
  if (!std::filesystem::is_directory(folder)) return steps;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (const auto step = parse_step_name(entry.path().filename().string())) steps.push_back(*step);
  }
  std::ranges::sort(steps);
  return steps;
}

}  // namespace unigrpo::io

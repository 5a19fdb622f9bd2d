#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace unigrpo::io {

/// "step_000020": what belongs to a step of a run is named so. Six digits or more: names sort as numbers up to a
/// million.
std::string step_name(int64_t step);
/// The step of such a name; empty for any other name.
std::optional<int64_t> parse_step_name(std::string_view name);
/// The steps that `folder` (which may be absent) has something of, ascending.
std::vector<int64_t> list_steps(const std::filesystem::path& folder);

}  // namespace unigrpo::io

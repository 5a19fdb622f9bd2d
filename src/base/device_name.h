#pragma once

#include <charconv>
#include <optional>
#include <string_view>

namespace unigrpo {

inline constexpr std::string_view kDeviceNames = "\"cpu\", \"cuda\" or \"cuda:N\"";

/// N of "cuda:N", 0 of "cuda"; nothing for other texts.
inline std::optional<int> cuda_index(std::string_view name) {
  if (name == "cuda") return 0;
  if (!name.starts_with("cuda:")) return std::nullopt;
  const std::string_view digits = name.substr(5);
  int index = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  const bool whole = error == std::errc() && end == digits.data() + digits.size() && index >= 0 && index < 128;
  return whole ? std::optional(index) : std::nullopt;
}

inline bool is_device_name(std::string_view name) { return name == "cpu" || cuda_index(name); }

}  // namespace unigrpo

#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace unigrpo {

/// The one table between an enum and its spelling in recipes, logs and errors. Specialise with
///   template <> struct EnumNames<SdeKind> {
///     static constexpr std::array names = {std::pair{SdeKind::flow_sde, "flow_sde"}, ...};
///   };
template <typename E>
struct EnumNames;

template <typename E>
constexpr std::string_view enum_name(E value) {
  for (const auto& [candidate, name] : EnumNames<E>::names) {
    if (candidate == value) return name;
  }
  return "?";
}

template <typename E>
constexpr std::optional<E> enum_value(std::string_view text) {
  for (const auto& [candidate, name] : EnumNames<E>::names) {
    if (text == name) return candidate;
  }
  return std::nullopt;
}

/// "a | b | c", for errors and `recipe --explain`.
template <typename E>
std::string enum_choices() {
  std::string text;
  for (const auto& [candidate, name] : EnumNames<E>::names) {
    if (!text.empty()) text += " | ";
    text += name;
  }
  return text;
}

}  // namespace unigrpo

#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace unigrpo {

/// An enum class and the one table between it and its spelling in recipes, logs and errors, at namespace scope:
///   UNIGRPO_ENUM(Importance, token, sequence, cispo);
/// An enumerator is spelled as its identifier, or as UNIGRPO_SPELLED(proceed, "continue") says.
#define UNIGRPO_ENUM(name, ...)                                                        \
  enum class name;                                                                     \
  [[maybe_unused]] constexpr std::string_view enum_list(name) { return #__VA_ARGS__; } \
  enum class name { __VA_ARGS__ }
#define UNIGRPO_SPELLED(enumerator, text) enumerator

namespace enum_names_detail {

/// The entries of `list`: calls visit(index, spelling) for each, returns their number.
template <typename Visit>
constexpr size_t read(std::string_view list, Visit visit) {
  size_t count = 0;
  while (!list.empty()) {
    const size_t bracket = list.find_first_of("(,");
    const bool spelled = bracket != list.npos && list[bracket] == '(';
    const size_t end = spelled ? list.find(')') + 1 : bracket;
    std::string_view entry = list.substr(0, end);
    if (spelled) {
      entry.remove_prefix(entry.find('"') + 1);
      entry = entry.substr(0, entry.find('"'));
    }
    visit(count++, entry);
    list.remove_prefix(end < list.size() ? list.find_first_not_of(", ", end) : list.size());
  }
  return count;
}

}  // namespace enum_names_detail

/// The spellings, by the enumerators' values (0, 1, ...).
template <typename E>
inline constexpr auto enum_names = [] {
  std::array<std::string_view, enum_names_detail::read(enum_list(E{}), [](size_t, std::string_view) {})> names;
  enum_names_detail::read(enum_list(E{}), [&](size_t index, std::string_view name) { names[index] = name; });
  return names;
}();

template <typename E>
constexpr std::string_view enum_name(E value) {
  const size_t index = static_cast<size_t>(value);
  return index < enum_names<E>.size() ? enum_names<E>[index] : "?";
}

template <typename E>
constexpr std::optional<E> enum_value(std::string_view text) {
  for (size_t index = 0; index < enum_names<E>.size(); ++index) {
    if (text == enum_names<E>[index]) return static_cast<E>(index);
  }
  return std::nullopt;
}

/// "a | b | c", for errors and `recipe --explain`.
template <typename E>
std::string enum_choices() {
  std::string text;
  for (const std::string_view name : enum_names<E>) {
    if (!text.empty()) text += " | ";
    text += name;
  }
  return text;
}

}  // namespace unigrpo

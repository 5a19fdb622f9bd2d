#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "recipe/document.h"

namespace unigrpo::recipe {

struct Trouble {
  Position at;
  std::string message;
};

/// What toml++ 3.3.0 must not be shown, since it would crash or run into undefined behaviour: text
/// that is not UTF-8, keys or brackets that nest too deep, table headers without a key, and
/// characters beyond ASCII where it looks for blanks. Every TOML 1.0 document within the limits of
/// depth passes, but for one whose line continues after a backslash with a character beyond ASCII.
std::optional<Trouble> find_hazard(std::string_view text);

/// A letter, a digit, '_' or '-': what a TOML key may hold without quotes.
bool is_bare_key_character(char c);

}  // namespace unigrpo::recipe

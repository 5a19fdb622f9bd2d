#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "recipe/parse.h"

namespace unigrpo::recipe {

/// The message that refuses a text in a file named FILE; "accepted" where none does.
inline std::string refusal(std::string_view text, const std::vector<std::string>& overrides = {},
                           Command command = Command::check) {
  try {
    parse_text(text, "FILE", overrides, command);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

/// A text that must be accepted.
inline Recipe accepted(std::string_view text, const std::vector<std::string>& overrides = {}) {
  return parse_text(text, "FILE", overrides, Command::check);
}

/// The shortest recipe that `train` takes.
inline const std::string kShortest =
    "[policy]\nmodel = \"m\"\n[data]\nprompts = \"p.jsonl\"\n[[rewards]]\nkind = "
    "\"geneval\"\n";

}  // namespace unigrpo::recipe

#include "base/failure.h"

#include <new>
#include <optional>
#include <string_view>

#include "base/signals.h"
#include "base/utf8.h"

namespace unigrpo {
namespace {

std::string message_of(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error)) return "out of memory";
  const std::string text = error.what();
  return text.substr(0, text.find("\nException raised from "));  // c10::Error goes on with a stack
}

std::optional<ExitCode> family_of(const std::exception& error) {
  if (dynamic_cast<const BadInput*>(&error)) return ExitCode::bad_input;
  if (dynamic_cast<const PeerLost*>(&error)) return ExitCode::try_again;
  if (dynamic_cast<const RuntimeFailure*>(&error)) return ExitCode::failed;
  if (dynamic_cast<const Interrupted*>(&error)) return ExitCode::interrupted;
  return std::nullopt;
}

std::string one_line(std::string_view text) {
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      line += "\\n";
    } else if (byte < 0x20 || byte == 0x7f) {
      line += fmt::format("\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  return line;
}

/// Appends `error` and what is nested in it.
void collect(const std::exception& error, std::string& text, std::optional<ExitCode>& family) {
  if (!text.empty()) text += ": ";
  text += message_of(error);
  if (!family) family = family_of(error);
  try {
    std::rethrow_if_nested(error);
  } catch (const std::exception& inner) {
    collect(inner, text, family);
  } catch (...) {
    text += ": unknown exception";
  }
}

}  // namespace

Failure describe_failure(const std::exception& error) {
  std::string text;
  std::optional<ExitCode> family;
  collect(error, text, family);
  return {family.value_or(ExitCode::failed), one_line(text)};
}

}  // namespace unigrpo

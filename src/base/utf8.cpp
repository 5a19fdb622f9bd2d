#include "base/utf8.h"

#include <cstdint>

#include "base/text.h"

namespace unigrpo {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// Bytes of the ill-formed sequence at `at`, where no valid character begins.
size_t ill_formed_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(at);
  const size_t whole = lead >= 0xF0 && lead <= 0xF4 ? 4 : lead >= 0xE0 && lead <= 0xEF ? 3 : lead >= 0xC2 ? 2 : 1;
  if (lead > 0xF4) return 1;
  // Of some lead bytes the second byte's range is smaller: no overlong forms, no surrogates, nothing above U+10FFFF.
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  size_t length = 1;
  while (length < whole && at + length < text.size()) {
    const uint8_t next = byte(at + length);
    if (next < (length == 1 ? low : 0x80) || next > (length == 1 ? high : 0xBF)) break;
    ++length;
  }
  return length;
}

}  // namespace

std::string valid_utf8(std::string_view text, size_t max_bytes) {
  std::string valid;
  while (!text.empty() && valid.size() <= max_bytes) {
    const size_t good = valid_utf8_prefix(text);
    valid += text.substr(0, good);
    text.remove_prefix(good);
    if (text.empty()) break;
    valid += kReplacement;
    text.remove_prefix(ill_formed_length(text, 0));
  }
  if (valid.size() > max_bytes) valid.resize(valid_utf8_prefix(std::string_view(valid).substr(0, max_bytes)));
  return valid;
}

std::string hide_password(std::string_view text) {
  constexpr std::string_view kScheme = "://";
  const size_t at = text.rfind('@');
  if (at == std::string_view::npos) return std::string(text);
  const size_t scheme = text.find(kScheme);
  const bool has_scheme = scheme != std::string_view::npos && scheme < at;
  const size_t begin = has_scheme ? scheme + kScheme.size() : text.find_last_of(" \t\n=", at) + 1;
  if (!has_scheme && text.substr(begin, at - begin).find(':') == std::string_view::npos) return std::string(text);
  return std::string(text.substr(0, begin)) + "[hidden]" + std::string(text.substr(at));
}

}  // namespace unigrpo

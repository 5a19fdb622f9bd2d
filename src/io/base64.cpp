#include "io/base64.h"

#include <string_view>

namespace unigrpo::io {

std::string base64_encode(std::span<const uint8_t> bytes) {
  static constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t at = 0; at < bytes.size(); at += 3) {
    const auto byte = [&](size_t i) -> uint32_t { return at + i < bytes.size() ? bytes[at + i] : 0U; };
    const uint32_t group = byte(0) << 16 | byte(1) << 8 | byte(2);
    for (int shift = 18; shift >= 0; shift -= 6) text += kAlphabet[group >> shift & 63];
  }
  const size_t num_padding = (3 - bytes.size() % 3) % 3;
  text.replace(text.size() - num_padding, num_padding, num_padding, '=');
  return text;
}

}  // namespace unigrpo::io

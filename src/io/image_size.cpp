#include "io/image_size.h"

#include <cstddef>
#include <string_view>

namespace unigrpo::io {
namespace {

using Bytes = std::span<const uint8_t>;

bool has_at(Bytes bytes, size_t at, std::string_view text) {
  return bytes.size() >= at + text.size() &&
         std::string_view(reinterpret_cast<const char*>(bytes.data()) + at, text.size()) == text;
}

uint64_t big_endian(Bytes bytes, size_t at, size_t count) {
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i) value = value << 8 | bytes[at + i];
  return value;
}

uint64_t little_endian(Bytes bytes, size_t at, size_t count) {
  uint64_t value = 0;
  for (size_t i = count; i-- > 0;) value = value << 8 | bytes[at + i];
  return value;
}

std::optional<ImageHeader> read_png(Bytes bytes) {
  if (!has_at(bytes, 12, "IHDR") || bytes.size() < 24) return std::nullopt;
  return ImageHeader{ImageFormat::png, big_endian(bytes, 16, 4), big_endian(bytes, 20, 4)};
}

// Walks the marker segments up to the first start of frame.
std::optional<ImageHeader> read_jpeg(Bytes bytes) {
  size_t at = 2;
  while (at + 4 <= bytes.size() && bytes[at] == 0xFF) {
    const uint8_t marker = bytes[at + 1];
    if (marker == 0xFF) {  // fill byte
      ++at;
      continue;
    }
    const bool is_frame = marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
    if (is_frame && at + 9 <= bytes.size()) {
      return ImageHeader{ImageFormat::jpeg, big_endian(bytes, at + 7, 2), big_endian(bytes, at + 5, 2)};
    }
    const uint64_t length = big_endian(bytes, at + 2, 2);
    if (is_frame || marker == 0xD9 || marker == 0xDA || length < 2) break;
    at += 2 + length;
  }
  return std::nullopt;
}

std::optional<ImageHeader> read_webp(Bytes bytes) {
  if (bytes.size() < 30) return std::nullopt;
  ImageHeader header{.format = ImageFormat::webp};
  if (has_at(bytes, 12, "VP8 ")) {
    header.width = little_endian(bytes, 26, 2) & 0x3FFF;
    header.height = little_endian(bytes, 28, 2) & 0x3FFF;
  } else if (has_at(bytes, 12, "VP8L")) {
    const uint64_t packed = little_endian(bytes, 21, 4);
    header.width = 1 + (packed & 0x3FFF);
    header.height = 1 + (packed >> 14 & 0x3FFF);
  } else if (has_at(bytes, 12, "VP8X")) {
    header.width = 1 + little_endian(bytes, 24, 3);
    header.height = 1 + little_endian(bytes, 27, 3);
  } else {
    return std::nullopt;
  }
  return header;
}

}  // namespace

std::optional<ImageHeader> read_image_header(Bytes bytes) {
  if (has_at(bytes, 0, "\x89PNG\r\n\x1a\n")) return read_png(bytes);
  if (has_at(bytes, 0, "\xFF\xD8\xFF")) return read_jpeg(bytes);
  if (has_at(bytes, 0, "RIFF") && has_at(bytes, 8, "WEBP")) return read_webp(bytes);
  return std::nullopt;
}

}  // namespace unigrpo::io

#pragma once

#include <cstdint>
#include <optional>
#include <span>

namespace unigrpo::io {

enum class ImageFormat { png, jpeg, webp };

struct ImageHeader {
  ImageFormat format = ImageFormat::png;
  uint64_t width = 0;
  uint64_t height = 0;
};

/// Format and dimensions from the first bytes of a PNG, JPEG or WebP file, without decoding;
/// nothing where they are not there. Sources: PNG (ISO 15948) 11.2.2, JPEG (ITU T.81) B.2, RFC
/// 9649.
std::optional<ImageHeader> read_image_header(std::span<const uint8_t> bytes);

}  // namespace unigrpo::io

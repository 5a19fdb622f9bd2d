#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace unigrpo::io {

/// Base64 with padding, in one line (RFC 4648, section 4).
std::string base64_encode(std::span<const uint8_t> bytes);

}  // namespace unigrpo::io

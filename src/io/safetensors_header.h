#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace unigrpo::io {

inline constexpr uint64_t kLengthBytes = 8;               // the header's length, little-endian
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit
inline constexpr std::string_view kMetadataKey = "__metadata__";

/// A tensor as the header announces it; view.bytes is still empty.
struct HeaderEntry {
  TensorView view;
  uint64_t begin = 0;  // within the data buffer
  uint64_t end = 0;
};

struct Header {
  std::vector<HeaderEntry> entries;  // as written
  std::map<std::string, std::string> metadata;
};

/// Reads the JSON of a header, space padding included. Checks form only: which fields, which types.
/// `where` begins every BadInput.
Header read_header(std::string_view text, const std::string& where);

/// What a whole file holds; the views point into it.
struct Contents {
  std::vector<TensorView> tensors;  // in order of name
  std::map<std::string, std::string> metadata;
};

/// Reads a file's bytes and applies every rule of the format. `where` begins every BadInput.
Contents read_contents(std::span<const std::byte> file, const std::string& where);

/// Bytes that a tensor takes; nothing where the product of its dimensions other than 0, or that
/// times the element size, leaves 64 bits.
std::optional<uint64_t> tensor_bytes(const std::vector<int64_t>& shape, DType dtype);

}  // namespace unigrpo::io

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace unigrpo {

/// FNV-1a, 64 bits (Fowler, Noll, Vo): a fingerprint, not a defence. `hash` continues an earlier one.
inline constexpr uint64_t kFnvStart = 0xcbf29ce484222325ULL;
constexpr uint64_t fnv1a64(std::string_view bytes, uint64_t hash = kFnvStart) {
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

/// Of a number's eight bytes, the lowest first.
constexpr uint64_t fnv1a64(uint64_t value, uint64_t hash) {
  for (int i = 0; i < 8; ++i) hash = (hash ^ ((value >> (8 * i)) & 0xff)) * 0x100000001b3ULL;
  return hash;
}

}  // namespace unigrpo

#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "base/rng.h"

namespace unigrpo::testing {

/// A damaged copy of `good`: one to four of flipping a bit, overwriting, inserting or removing
/// bytes, repeating a piece elsewhere, cutting the end off. Half of the places lie in the first
/// quarter, where headers are.
inline std::string mutate(std::string_view good, RandomStream& random) {
  std::string bytes(good);
  const auto place = [&] {
    const size_t range = random.chance(0.5) ? bytes.size() / 4 + 1 : bytes.size() + 1;
    return std::min<size_t>(random.below(range), bytes.size());
  };
  const auto num_changes = 1 + random.below(4);
  for (uint64_t i = 0; i < num_changes && !bytes.empty(); ++i) {
    const size_t at = std::min(place(), bytes.size() - 1);
    const size_t count = std::min<size_t>(1 + random.below(8), bytes.size() - at);
    switch (random.below(6)) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
        break;
      case 1:
        bytes[at] = static_cast<char>(random.below(256));
        break;
      case 2:
        bytes.insert(at, 1, "0123456789[]{},:\"\\ -"[random.below(20)]);
        break;
      case 3:
        bytes.erase(at, count);
        break;
      case 4:
        bytes.insert(at, std::string(bytes, place(), count * 4));
        break;
      default:
        bytes.resize(at);
        break;
    }
  }
  return bytes;
}

}  // namespace unigrpo::testing

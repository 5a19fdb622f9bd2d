#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "optim/parameters.h"

namespace unigrpo::optim {

/// A piece of one tensor, small enough for a fair share among threads and large enough to be worth one.
struct Chunk {
  size_t index = 0;   // in the list of parameters
  int64_t begin = 0;  // elements
  int64_t end = 0;
};

inline constexpr int64_t kChunkElements = int64_t{1} << 15;

/// Cuts all parameters into chunks, in order; a fixed cut, so sums over chunks have one order.
inline std::vector<Chunk> cut_into_chunks(const NamedParameters& parameters) {
  std::vector<Chunk> chunks;
  for (size_t index = 0; index < parameters.size(); ++index) {
    const int64_t size = parameters[index].tensor.numel();
    for (int64_t begin = 0; begin < size; begin += kChunkElements) {
      chunks.push_back({index, begin, std::min(size, begin + kChunkElements)});
    }
  }
  return chunks;
}

}  // namespace unigrpo::optim

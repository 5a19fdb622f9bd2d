#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace unigrpo::kernels {

/// A piece of one tensor of a list, small enough for a fair share among threads and large enough to be worth one.
struct Chunk {
  size_t index = 0;   // in the list
  int64_t begin = 0;  // elements
  int64_t size = 0;
};

inline constexpr int64_t kChunkElements = int64_t{1} << 15;

/// Cuts all tensors into chunks, in order; a fixed cut, so sums over chunks have one order.
inline std::vector<Chunk> cut_into_chunks(at::TensorList tensors) {
  std::vector<Chunk> chunks;
  for (size_t index = 0; index < tensors.size(); ++index) {
    const int64_t size = tensors[index].numel();
    for (int64_t begin = 0; begin < size; begin += kChunkElements) {
      chunks.push_back({index, begin, std::min(kChunkElements, size - begin)});
    }
  }
  return chunks;
}

/// Runs body(ordinal, chunk) for all of them, on all threads.
template <typename Body>
void for_chunks(const std::vector<Chunk>& chunks, const Body& body) {
  at::parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t ordinal = first; ordinal < last; ++ordinal) body(ordinal, chunks[ordinal]);
  });
}

/// Where a chunk's numbers begin. T: float, or uint16_t for the bits of bf16.
template <typename T>
const T* data_of(at::TensorList tensors, const Chunk& chunk) {
  return static_cast<const T*>(tensors[chunk.index].const_data_ptr()) + chunk.begin;
}
template <typename T>
T* mutable_data_of(at::TensorList tensors, const Chunk& chunk) {
  return static_cast<T*>(tensors[chunk.index].mutable_data_ptr()) + chunk.begin;
}

/// That all are contiguous float32 or bf16.
inline void check_chunkable(at::TensorList tensors, const char* what) {
  for (const at::Tensor& tensor : tensors) {
    const bool known = tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16;
    TORCH_CHECK(known && tensor.is_contiguous(), what, " must be contiguous float32 or bf16");
  }
}

}  // namespace unigrpo::kernels

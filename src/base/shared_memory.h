#pragma once

#include <cstddef>
#include <span>

namespace unigrpo {

/// Memory that two processes see at once, without a name that could outlive them (memfd_create). The descriptor is
/// passed to the other process, which attaches it. It only grows, and neither side can shrink it under the other. Every
/// failure is a RuntimeFailure.
class SharedMemory {
 public:
  SharedMemory();                         // empty, of one's own
  explicit SharedMemory(int descriptor);  // another process's; takes the descriptor over
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  /// At least `bytes`, backed by real memory, so that no later write can fail. Pointers from before are void.
  void reserve(size_t bytes);
  /// Maps what the other side has reserved since. Pointers from before are void where it has grown.
  void refresh();

  std::span<std::byte> bytes() const { return {data_, size_}; }
  int descriptor() const { return descriptor_; }

 private:
  void map(size_t bytes);
  int descriptor_ = -1;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace unigrpo

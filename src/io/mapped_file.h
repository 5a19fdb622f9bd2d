#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace unigrpo::io {

/// Opens a regular file for reading and says how large it is; the descriptor closes with the
/// object. Throws BadInput (missing, unreadable, not a regular file): a FIFO or a device is never
/// waited on.
class InputFile {
 public:
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  int descriptor() const { return descriptor_; }
  uint64_t size() const { return size_; }

 private:
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

/// A whole file mapped read-only; nothing is copied and only pages that are read take memory.
/// Throws BadInput as InputFile does, RuntimeFailure where the system refuses to map.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

/// Of a mapped file: what was read of these bytes need not stay in memory; it can be read again.
void forget_pages(std::span<const std::byte> bytes);

}  // namespace unigrpo::io

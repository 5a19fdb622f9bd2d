#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace unigrpo::io {

/// The failure of a write for want of space (ENOSPC, EDQUOT), which some callers can live with.
class DiskFull : public RuntimeFailure {
 public:
  using RuntimeFailure::RuntimeFailure;
};

/// A file that appears whole or not at all: bytes go to a temporary file beside it; commit() does
/// fsync, rename, fsync of the folder. Destroyed before commit(), it leaves nothing behind.
/// Every failure is a RuntimeFailure naming path and cause; where the disk is full, with the bytes
/// needed (`expected_bytes` from the caller, or what was written so far) and free, as DiskFull.
/// Fault points: save.open, save.write, save.fsync, save.rename, save.dirsync.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path, uint64_t expected_bytes = 0);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void append(std::span<const std::byte> bytes);
  void append(std::string_view text) { append(std::as_bytes(std::span(text.data(), text.size()))); }
  void commit();

 private:
  [[noreturn]] void fail(std::string_view doing, int error) const;
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  uint64_t expected_bytes_;
  uint64_t num_bytes_ = 0;
  int descriptor_ = -1;
};

/// Writes a whole file or nothing: temporary file beside it, fsync, rename, fsync of the folder.
/// Throws RuntimeFailure naming path and cause (with bytes needed and free when the disk is full).
void write_file_atomic(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomic(const std::filesystem::path& path, std::string_view text);
/// The same with the bytes of another file, a block at a time. Throws BadInput where that one cannot be read.
void copy_file_atomic(const std::filesystem::path& from, const std::filesystem::path& to);

/// fsync of a folder, so that a rename in it survives power loss.
void sync_folder(const std::filesystem::path& folder);

/// Puts the finished folder `fresh` in the place of `destination`, which may be missing: at no time is there neither.
/// Both lie in one file system. Throws RuntimeFailure naming path and cause.
void replace_folder(const std::filesystem::path& fresh, const std::filesystem::path& destination);

/// The file's bytes as text. Throws BadInput (missing, unreadable, a folder, over `max_bytes`).
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes = size_t{256} << 20);

}  // namespace unigrpo::io

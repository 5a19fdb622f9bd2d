#pragma once

#include <filesystem>
#include <string_view>

namespace unigrpo::io {

/// The file in a folder that its lock is.
inline constexpr const char* kLockFile = ".lock";

/// A folder held: no second process can lock it while this object lives. Held with flock on `.lock`, so it is gone with
/// the process, however that ends. On a file system without locks it warns and holds nothing.
class FolderLock {
 public:
  /// Throws BadInput naming the folder, which messages call `what`: "in use by process 123", or not writable.
  FolderLock(const std::filesystem::path& folder, std::string_view what);
  ~FolderLock();
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;

 private:
  int file_ = -1;
};

}  // namespace unigrpo::io

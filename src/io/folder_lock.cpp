#include "io/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"

namespace unigrpo::io {
namespace {

std::string holder_of(int lock) {
  std::array<char, 64> text{};
  const ssize_t size = ::pread(lock, text.data(), text.size(), 0);
  std::string holder(text.data(), static_cast<size_t>(std::max<ssize_t>(size, 0)));
  while (!holder.empty() && std::isspace(static_cast<unsigned char>(holder.back()))) holder.pop_back();
  return holder.empty() ? "another process" : "process " + holder;
}

}  // namespace

FolderLock::FolderLock(const std::filesystem::path& folder, std::string_view what) {
  const std::filesystem::path path = folder / kLockFile;
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file_ < 0) throw BadInput("{}: cannot write into the {}: {}", folder.string(), what, std::strerror(errno));
  const int refused = fault::effect("lock.flock").error;  // a file system without locks, as a test has it
  if (refused != 0) errno = refused;
  if (refused != 0 || ::flock(file_, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      const std::string holder = holder_of(file_);
      ::close(file_);
      throw BadInput("{}: the {} is in use by {}", folder.string(), what, holder);
    }
    log::warn(fmt::format("{}: this file system keeps no locks ({}); see to it that no second run uses the folder",
                          folder.string(), std::strerror(errno)));
  }
  const std::string holder = fmt::format("{}\n", getpid());
  // Only for the message above; the lock holds without it.
  if (::ftruncate(file_, 0) != 0 || ::pwrite(file_, holder.data(), holder.size(), 0) < 0) {
    log::warn(fmt::format("{}: cannot write: {}", path.string(), std::strerror(errno)));
  }
}

FolderLock::~FolderLock() {
  if (file_ >= 0) ::close(file_);
}

FolderLock::FolderLock(FolderLock&& other) noexcept : file_(std::exchange(other.file_, -1)) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(file_, other.file_);
  return *this;
}

}  // namespace unigrpo::io

#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/fault.h"
#include "base/sha256.h"
#include "base/text.h"
#include "io/mapped_file.h"

namespace unigrpo::io {
namespace {

constexpr size_t kChunkBytes = size_t{16} << 20;

std::filesystem::path folder_of(const std::filesystem::path& path) {
  const auto parent = path.parent_path();
  return parent.empty() ? std::filesystem::path(".") : parent;
}

// Unique in the folder among live processes and threads of this machine.
std::filesystem::path temporary_beside(const std::filesystem::path& path) {
  static std::atomic<uint64_t> counter{0};
  return folder_of(path) / fmt::format(".{}.tmp-{}-{}", path.filename().string(), ::getpid(), counter++);
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path, uint64_t expected_bytes)
    : path_(std::move(path)), temporary_(temporary_beside(path_)), expected_bytes_(expected_bytes) {
  if (const int error = fault::effect("save.open").error) fail("create", error);
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("create", errno);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::fail(std::string_view doing, int error) const {
  if (error == ENOSPC || error == EDQUOT) {
    struct statvfs status {};
    const bool known = ::statvfs(folder_of(path_).c_str(), &status) == 0;
    throw DiskFull("{}: cannot {}: {} ({} needed, {} free)", path_.string(), doing, std::strerror(error),
                   human_bytes(std::max(expected_bytes_, num_bytes_)),
                   known ? human_bytes(uint64_t{status.f_bavail} * status.f_frsize) : "an unknown number of bytes");
  }
  throw RuntimeFailure("{}: cannot {}: {}", path_.string(), doing, std::strerror(error));
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  num_bytes_ += bytes.size();
  while (!bytes.empty()) {
    const fault::Effect effect = fault::effect("save.write");
    if (effect.error != 0) fail("write", effect.error);
    size_t chunk = std::min(bytes.size(), kChunkBytes);
    if (effect.short_write) chunk = (chunk + 1) / 2;
    const ssize_t written = ::write(descriptor_, bytes.data(), chunk);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::commit() {
  int error = fault::effect("save.fsync").error;
  if (error == 0 && ::fsync(descriptor_) != 0) error = errno;
  if (error != 0) fail("fsync", error);
  // A file system may report a failed write only here.
  if (::close(std::exchange(descriptor_, -1)) != 0) fail("close", errno);
  error = fault::effect("save.rename").error;
  if (error == 0 && ::rename(temporary_.c_str(), path_.c_str()) != 0) error = errno;
  if (error != 0) fail("rename the finished file", error);
  temporary_.clear();
  sync_folder(folder_of(path_));
}

void write_file_atomic(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path, bytes.size());
  file.append(bytes);
  file.commit();
}

void write_file_atomic(const std::filesystem::path& path, std::string_view text) {
  write_file_atomic(path, std::as_bytes(std::span(text.data(), text.size())));
}

void copy_file_atomic(const std::filesystem::path& from, const std::filesystem::path& to) {
  AtomicFile file(to, InputFile(from).size());
  for_each_block(from, [&](std::string_view bytes) { file.append(bytes); });
  file.commit();
}

void sync_folder(const std::filesystem::path& folder) {
  int error = fault::effect("save.dirsync").error;
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (error == 0 && descriptor < 0) error = errno;
  // EINVAL: a file system without folder fsync; nothing more can be done there.
  if (error == 0 && ::fsync(descriptor) != 0 && errno != EINVAL) error = errno;
  if (descriptor >= 0) ::close(descriptor);
  if (error != 0) {
    throw RuntimeFailure("{}: cannot fsync the folder: {}", folder.string(), std::strerror(error));
  }
}

void replace_folder(const std::filesystem::path& fresh, const std::filesystem::path& destination) {
  const bool exists = std::filesystem::exists(destination);
  const unsigned flags = exists ? RENAME_EXCHANGE : 0;
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, destination.c_str(), flags) != 0) {
    throw RuntimeFailure("{}: cannot take the place of {}: {}", fresh.string(), destination.string(),
                         std::strerror(errno));
  }
  sync_folder(destination.parent_path());
  if (exists) std::filesystem::remove_all(fresh);
}

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  const InputFile file(path);
  if (file.size() > max_bytes) {
    throw BadInput("{}: file of {}, at most {} are read", path.string(), human_bytes(file.size()),
                   human_bytes(max_bytes));
  }
  std::string text(file.size(), '\0');
  size_t num_read = 0;
  while (num_read < text.size()) {
    const ssize_t got = ::read(file.descriptor(), text.data() + num_read, text.size() - num_read);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw BadInput("{}: cannot read: {}", path.string(), std::strerror(errno));
    if (got == 0) break;  // the file was cut while we read
    num_read += static_cast<size_t>(got);
  }
  text.resize(num_read);
  return text;
}

}  // namespace unigrpo::io

#include "reward/plugin/file_copy.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/sha256.h"

namespace unigrpo::reward::plugin {
namespace {

namespace fs = std::filesystem;

void write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t size = write(descriptor, bytes.data(), bytes.size());
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) throw RuntimeFailure("cannot keep a copy of a plugin in memory: {}", std::strerror(errno));
    bytes.remove_prefix(static_cast<size_t>(size));
  }
}

/// The SHA-256 of what was copied.
std::string copy(const fs::path& path, int descriptor) {
  Sha256 digest;
  for_each_block(path, [&](std::string_view bytes) {
    digest.update(bytes);
    write_all(descriptor, bytes);
  });
  return digest.hex();
}

}  // namespace

FileCopy::FileCopy(const fs::path& path) {
  const int writable = memfd_create(path.filename().c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (writable < 0) throw RuntimeFailure("cannot keep a copy of a plugin in memory: {}", std::strerror(errno));
  try {
    sha256_ = copy(path, writable);
  } catch (...) {
    close(writable);
    throw;
  }
  fcntl(writable, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
  // Opened anew for reading alone: a file that is open for writing cannot be executed.
  descriptor_ = open(fmt::format("/proc/self/fd/{}", writable).c_str(), O_RDONLY | O_CLOEXEC);
  const int error = errno;
  close(writable);
  if (descriptor_ < 0) throw RuntimeFailure("cannot keep a copy of a plugin in memory: {}", std::strerror(error));
}

FileCopy::~FileCopy() { close(descriptor_); }

}  // namespace unigrpo::reward::plugin

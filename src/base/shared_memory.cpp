#include "base/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/text.h"

namespace unigrpo {

SharedMemory::SharedMemory() : descriptor_(memfd_create("unigrpo", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
  if (descriptor_ < 0) throw RuntimeFailure("cannot make shared memory: {}", std::strerror(errno));
  fcntl(descriptor_, F_ADD_SEALS, F_SEAL_SHRINK);
}

SharedMemory::SharedMemory(int descriptor) : descriptor_(descriptor) { refresh(); }

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) munmap(data_, size_);
  if (descriptor_ >= 0) close(descriptor_);
}

void SharedMemory::reserve(size_t bytes) {
  if (bytes <= size_) return;
  constexpr size_t kStep = size_t{1} << 20;
  const size_t size = (bytes + kStep - 1) / kStep * kStep;
  if (const int error = posix_fallocate(descriptor_, 0, static_cast<off_t>(size)); error != 0) {
    throw RuntimeFailure("cannot reserve {} of shared memory: {}", human_bytes(size), std::strerror(error));
  }
  map(size);
}

void SharedMemory::refresh() {
  struct stat status {};
  if (fstat(descriptor_, &status) != 0) throw RuntimeFailure("cannot see the shared memory: {}", std::strerror(errno));
  if (static_cast<size_t>(status.st_size) > size_) map(static_cast<size_t>(status.st_size));
}

void SharedMemory::map(size_t bytes) {
  void* mapped = data_ == nullptr ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0)
                                  : mremap(data_, size_, bytes, MREMAP_MAYMOVE);
  if (mapped == MAP_FAILED) {
    throw RuntimeFailure("cannot map {} of shared memory: {}", human_bytes(bytes), std::strerror(errno));
  }
  data_ = static_cast<std::byte*>(mapped);
  size_ = bytes;
}

}  // namespace unigrpo

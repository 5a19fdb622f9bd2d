#include "monitor/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace unigrpo::monitor {

AppendFile::AppendFile(const std::filesystem::path& path, Mode mode) : path_(path) {
  const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | (mode == Mode::create ? O_EXCL : 0);
  file_ = ::open(path.c_str(), flags, 0644);
  if (file_ >= 0) return;
  if (errno == EEXIST) {
    throw BadInput("{}: exists already; a new run needs a folder of its own (or --resume)", path.string());
  }
  throw RuntimeFailure("{}: cannot open for writing: {}", path.string(), std::strerror(errno));
}

AppendFile::~AppendFile() { ::close(file_); }

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw RuntimeFailure("{}: cannot write: {}", path_.string(), std::strerror(errno));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace unigrpo::monitor

#include "checkpoint/build_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "base/error.h"
#include "io/atomic_file.h"

namespace unigrpo::checkpoint {
namespace {

std::filesystem::path target_of(const std::filesystem::path& destination) {
  const std::filesystem::path absolute = std::filesystem::absolute(destination).lexically_normal();
  // "out/" has an empty last part: the name is then its parent's.
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

}  // namespace

void require_unused(const std::filesystem::path& destination) {
  const std::filesystem::path target = target_of(destination);
  if (!std::filesystem::exists(std::filesystem::symlink_status(target))) return;
  std::error_code error;
  if (!std::filesystem::is_directory(target) || !std::filesystem::is_empty(target, error) || error) {
    throw BadInput("{}: exists and is not an empty folder; give a new name", destination.string());
  }
}

void build_folder(const std::filesystem::path& destination,
                  const std::function<void(const std::filesystem::path& temporary)>& fill) {
  require_unused(destination);
  const std::filesystem::path target = target_of(destination);
  const std::filesystem::path parent = target.parent_path();
  std::error_code error;
  std::filesystem::create_directories(parent, error);
  if (error) throw RuntimeFailure("{}: cannot create the folder: {}", parent.string(), error.message());
  const std::filesystem::path temporary = parent / fmt::format(".{}.tmp-{}", target.filename().string(), ::getpid());
  std::filesystem::remove_all(temporary, error);  // of a dead process that had our id
  if (::mkdir(temporary.c_str(), 0777) != 0) {
    throw RuntimeFailure("{}: cannot create the folder: {}", temporary.string(), std::strerror(errno));
  }
  try {
    fill(temporary);
    io::sync_folder(temporary);
    if (std::rename(temporary.c_str(), target.c_str()) != 0) {
      throw RuntimeFailure("{}: cannot rename to '{}': {}", temporary.string(), target.string(), std::strerror(errno));
    }
  } catch (...) {
    std::filesystem::remove_all(temporary, error);
    throw;
  }
  io::sync_folder(parent);
}

}  // namespace unigrpo::checkpoint

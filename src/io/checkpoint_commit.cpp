#include "io/checkpoint_commit.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "io/atomic_file.h"
#include "io/step_folder.h"

namespace unigrpo::io {

std::string unique_name(std::string_view prefix, std::string_view name) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return fmt::format("{}{}-{}-{:x}", prefix, name, ::getpid(),
                     std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

void rename_folder(const std::filesystem::path& from, const std::filesystem::path& to) {
  check_write(::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno, from, "rename the folder");
}

void commit_checkpoint(FinishedFiles finished) {
  const std::filesystem::path& temporary = finished.temporary;
  for (const Manifest::File& file : finished.manifest.files) {
    // Of other machines: what they wrote must be seen from here before it is said to be there.
    const std::filesystem::path path = temporary / file.name;
    if (const uint64_t size = std::filesystem::file_size(path); size != file.size) {
      throw RuntimeFailure("{}: has {} bytes here, {} were written", path.string(), size, file.size);
    }
  }
  write_file_atomic(temporary / kStateFile, finished.state);
  finished.manifest.files.push_back(describe_file(temporary / kStateFile));
  check_write(fault::effect("save.manifest").error, temporary / kManifestFile, "write");
  write_file_atomic(temporary / kManifestFile, write_manifest(finished.manifest));
  sync_folder(temporary);
  check_write(fault::effect("save.commit").error, temporary, "rename the folder");
  rename_folder(temporary, finished.folder / step_name(finished.manifest.step));
  sync_folder(finished.folder);
  keep_last_checkpoints(finished.folder, finished.keep_last);
}

void keep_last_checkpoints(const std::filesystem::path& folder, int64_t keep_last) {
  const std::vector<int64_t> steps = list_steps(folder);
  const size_t keep = static_cast<size_t>(std::max<int64_t>(1, keep_last));
  std::vector<std::filesystem::path> trash;
  for (size_t index = 0; index + keep < steps.size(); ++index) {
    const std::string name = step_name(steps[index]);
    trash.push_back(folder / unique_name(kTrashPrefix, name));
    rename_folder(folder / name, trash.back());
  }
  fault::point("save.trash");
  for (const std::filesystem::path& path : trash) {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) {
      log::warn(fmt::format("{}: cannot remove the old checkpoint: {}", path.string(), error.message()));
    }
  }
}

}  // namespace unigrpo::io

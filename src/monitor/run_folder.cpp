#include "monitor/run_folder.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/log.h"

namespace unigrpo::monitor {
namespace {

namespace fs = std::filesystem;

// Rank 0 may end before it has written any, and the others leave their logs and reports.
constexpr std::array kNamesOfARun = {"recipe.toml", "run.json", "log.txt",    "metrics.jsonl", "tensorboard",
                                     "checkpoints", "samples",  "ranks.json", "logs",          "hang"};

// ".<name>.tmp-<id>": a file or folder that was being written when its process died.
bool is_leftover(const std::string& name) { return name.starts_with('.') && name.find(".tmp-") != std::string::npos; }

struct Contents {
  bool empty = true;  // but for a lock file and leftovers
  bool known = false;
};

Contents look_into(const fs::path& folder) {
  Contents contents;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name == io::kLockFile || is_leftover(name)) continue;
    contents.empty = false;
    contents.known |= std::find(kNamesOfARun.begin(), kNamesOfARun.end(), name) != kNamesOfARun.end();
  }
  if (error) throw BadInput("{}: cannot read the run folder: {}", folder.string(), error.message());
  return contents;
}

void remove_leftovers(const fs::path& folder) {
  std::vector<fs::path> leftovers;
  for (fs::recursive_directory_iterator entry(folder), end; entry != end; ++entry) {
    if (!is_leftover(entry->path().filename().string())) continue;
    leftovers.push_back(entry->path());
    entry.disable_recursion_pending();
  }
  for (const fs::path& path : leftovers) {
    std::error_code error;
    fs::remove_all(path, error);
    if (error) {
      log::warn(fmt::format("{}: cannot remove what a dead run left: {}", path.string(), error.message()));
    }
  }
}

// Folders made on the way, removed again (while empty) unless kept.
class MadeFolders {
 public:
  ~MadeFolders() {
    std::error_code ignored;  // best effort on the way out of another error
    for (auto folder = made_.rbegin(); folder != made_.rend(); ++folder) fs::remove(*folder, ignored);
  }
  void make(const fs::path& path) {
    fs::path sofar;
    for (const fs::path& part : path) {
      sofar /= part;
      if (::mkdir(sofar.c_str(), 0755) == 0) {
        made_.push_back(sofar);
      } else if (const int cause = errno; !is_folder(sofar)) {
        throw BadInput("{}: cannot create the run folder: {}: {}", path.string(), sofar.string(), std::strerror(cause));
      }
    }
  }
  void keep() { made_.clear(); }

 private:
  static bool is_folder(const fs::path& path) {
    std::error_code ignored;
    return fs::is_directory(path, ignored);
  }
  std::vector<fs::path> made_;
};

}  // namespace

RunFolder RunFolder::open(const fs::path& path, bool resume) {
  if (path.empty()) throw BadInput("the run folder has no name");
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && !fs::is_directory(status))
    throw BadInput("{}: the run folder is not a folder", path.string());

  MadeFolders made;
  made.make(path);
  const Contents contents = look_into(path);
  if (!contents.empty && !resume) {
    throw BadInput("{}: the run folder is not empty; --resume continues the run in it", path.string());
  }
  if (!contents.empty && !contents.known) {
    throw BadInput("{}: not a run folder (no recipe.toml, no metrics.jsonl), nothing to resume", path.string());
  }
  RunFolder folder(path, io::FolderLock(path, "run folder"));
  made.keep();
  remove_leftovers(path);
  return folder;
}

}  // namespace unigrpo::monitor

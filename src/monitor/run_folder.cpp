#include "monitor/run_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"

namespace unigrpo::monitor {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLockName = ".lock";
constexpr std::string_view kStepPrefix = "step_";
constexpr std::array kNamesOfARun = {"recipe.toml", "log.txt",     "metrics.jsonl",
                                     "tensorboard", "checkpoints", "samples"};

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
    if (name == kLockName || is_leftover(name)) continue;
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

std::string holder_of(int lock) {
  std::array<char, 64> text{};
  const ssize_t size = ::pread(lock, text.data(), text.size(), 0);
  std::string holder(text.data(), static_cast<size_t>(std::max<ssize_t>(size, 0)));
  while (!holder.empty() && std::isspace(static_cast<unsigned char>(holder.back()))) holder.pop_back();
  return holder.empty() ? "another process" : "process " + holder;
}

// Returns the open lock file.
int take_lock(const fs::path& folder) {
  const fs::path path = folder / kLockName;
  const int lock = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock < 0) throw BadInput("{}: cannot write into the run folder: {}", folder.string(), std::strerror(errno));
  if (::flock(lock, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      const std::string holder = holder_of(lock);
      ::close(lock);
      throw BadInput("{}: the run folder is in use by {}", folder.string(), holder);
    }
    log::warn(fmt::format("{}: this file system keeps no locks ({}); see to it that no second run uses the folder",
                          folder.string(), std::strerror(errno)));
  }
  const std::string holder = fmt::format("{}\n", getpid());
  // Only for the message above; the lock holds without it.
  if (::ftruncate(lock, 0) != 0 || ::pwrite(lock, holder.data(), holder.size(), 0) < 0) {
    log::warn(fmt::format("{}: cannot write: {}", path.string(), std::strerror(errno)));
  }
  return lock;
}

}  // namespace

std::string step_name(int64_t step) { return fmt::format("{}{:06}", kStepPrefix, step); }

int64_t parse_step_name(const std::string& name) {
  if (!name.starts_with(kStepPrefix)) return -1;
  int64_t step = -1;
  const auto [end, error] = std::from_chars(name.data() + kStepPrefix.size(), name.data() + name.size(), step);
  return error == std::errc() && end == name.data() + name.size() && step >= 0 && step_name(step) == name ? step : -1;
}

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
  RunFolder folder;
  folder.path_ = path;
  folder.lock_ = take_lock(path);
  made.keep();
  remove_leftovers(path);
  return folder;
}

RunFolder::~RunFolder() {
  if (lock_ >= 0) ::close(lock_);
}

RunFolder::RunFolder(RunFolder&& other) noexcept
    : path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

RunFolder& RunFolder::operator=(RunFolder&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(lock_, other.lock_);
  return *this;
}

}  // namespace unigrpo::monitor

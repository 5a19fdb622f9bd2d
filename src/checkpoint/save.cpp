#include "checkpoint/save.h"

#include <ATen/ATen.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/checkpoint_layout.h"
#include "io/step_folder.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

// Tells this process's temporary folders from those of any run before it.
std::string nonce() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return fmt::format("{}-{:x}", ::getpid(), std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

bool starts_with(const std::filesystem::path& path, std::string_view prefix) {
  return path.filename().string().starts_with(prefix);
}

// What the files will take, headers and JSON estimated from above.
uint64_t bytes_needed(const Snapshot& snapshot) {
  uint64_t bytes = (uint64_t{64} << 10) + snapshot.recipe_toml.size();
  for (const auto& [part, tensors] : snapshot.parts) {
    for (const optim::NamedParameter& entry : tensors) bytes += entry.tensor.nbytes() + entry.name.size() + 256;
  }
  return bytes;
}

uint64_t bytes_free(const std::filesystem::path& folder) {
  struct statvfs status {};
  if (::statvfs(folder.c_str(), &status) != 0) {
    throw RuntimeFailure("{}: cannot read the free space: {}", folder.string(), std::strerror(errno));
  }
  return uint64_t{status.f_bavail} * status.f_frsize;
}

// Does nothing for error 0.
void check(int error, const std::filesystem::path& path, std::string_view doing) {
  if (error == 0) return;
  if (error == ENOSPC || error == EDQUOT) {
    throw io::DiskFull("{}: cannot {}: {}", path.string(), doing, std::strerror(error));
  }
  throw RuntimeFailure("{}: cannot {}: {}", path.string(), doing, std::strerror(error));
}

void rename_folder(const std::filesystem::path& from, const std::filesystem::path& to) {
  check(::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno, from, "rename the folder");
}

void write_part(const std::filesystem::path& path, const optim::NamedParameters& tensors) {
  std::vector<at::Tensor> on_cpu;  // owns what had to be copied
  std::vector<io::TensorView> views;
  for (const optim::NamedParameter& entry : tensors) {
    on_cpu.push_back(entry.tensor.detach().cpu().contiguous());
    views.push_back(tensor::to_view(on_cpu.back(), entry.name));
  }
  io::write_safetensors(path, views);
}

std::filesystem::path made(std::filesystem::path folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw RuntimeFailure("{}: cannot create the folder: {}", folder.string(), error.message());
  return folder;
}

io::Manifest::File describe(const std::filesystem::path& path) {
  return {.name = path.filename().string(), .size = std::filesystem::file_size(path), .sha256 = sha256_of_file(path)};
}

}  // namespace

CheckpointStore::CheckpointStore(std::filesystem::path folder, const CheckpointConfig& config, const Runtime& runtime)
    : folder_(made(std::move(folder))), config_(config), mesh_(runtime.mesh), lock_(folder_, "folder of checkpoints") {
  remove_leftovers();
}

void CheckpointStore::remove_leftovers() {
  std::vector<std::filesystem::path> leftovers;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    if (starts_with(entry.path(), io::kTemporaryPrefix) || starts_with(entry.path(), io::kTrashPrefix)) {
      leftovers.push_back(entry.path());
    }
  }
  for (const std::filesystem::path& path : leftovers) {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) {
      log::warn(fmt::format("{}: cannot remove what a dead run left: {}", path.string(), error.message()));
    }
  }
}

bool CheckpointStore::save(const Snapshot& snapshot) {
  const std::filesystem::path destination = folder_ / io::step_name(snapshot.step);
  if (std::filesystem::exists(destination)) {
    log::info(fmt::format("{} is committed already", destination.string()));
    keep_last();  // a run that was killed in between had not come to it
    return true;
  }
  const uint64_t needed = bytes_needed(snapshot);
  const uint64_t wanted = needed + needed / 10;
  try {
    if (bytes_free(folder_) < wanted) throw io::DiskFull("{}", std::strerror(ENOSPC));
    commit(snapshot);
  } catch (const io::DiskFull& error) {
    const io::DiskFull full("{}: no space for the checkpoint: {} needed, {} free: {}", destination.string(),
                            human_bytes(wanted), human_bytes(bytes_free(folder_)), error.what());
    if (config_.on_disk_full == OnDiskFull::stop) throw full;
    log::error(fmt::format("{} (going on, checkpoint.on_disk_full = continue)", full.what()));
    return false;
  }
  log::info(fmt::format("committed step {}: {}", snapshot.step, destination.string()));
  keep_last();
  return true;
}

void CheckpointStore::commit(const Snapshot& snapshot) {
  const std::string name = io::step_name(snapshot.step);
  const std::filesystem::path temporary = folder_ / fmt::format("{}{}-{}", io::kTemporaryPrefix, name, nonce());
  check(::mkdir(temporary.c_str(), 0777) == 0 ? 0 : errno, temporary, "create the folder");
  try {
    io::Manifest manifest{
        .step = snapshot.step, .world_size = mesh_.world_size, .recipe_sha256 = sha256_hex(snapshot.recipe_toml)};
    for (const auto& [part, tensors] : snapshot.parts) {
      const std::filesystem::path path = temporary / io::part_file_name(part);
      write_part(path, tensors);
      manifest.files.push_back(describe(path));
    }
    const nlohmann::json state = {
        {"step", snapshot.step}, {"recipe", snapshot.recipe_toml}, {"counters", snapshot.counters}};
    io::write_file_atomic(temporary / io::kStateFile, state.dump(2) + "\n");
    manifest.files.push_back(describe(temporary / io::kStateFile));
    check(fault::effect("save.manifest").error, temporary / io::kManifestFile, "write");
    io::write_file_atomic(temporary / io::kManifestFile, io::write_manifest(manifest));
    io::sync_folder(temporary);
    check(fault::effect("save.commit").error, temporary, "rename the folder");
    rename_folder(temporary, folder_ / name);
  } catch (...) {
    std::error_code ignored;  // what cannot be removed now is removed at the next start
    std::filesystem::remove_all(temporary, ignored);
    throw;
  }
  io::sync_folder(folder_);
}

void CheckpointStore::keep_last() {
  const std::vector<int64_t> steps = io::list_steps(folder_);
  const size_t keep = static_cast<size_t>(std::max<int64_t>(1, config_.keep_last));
  std::vector<std::filesystem::path> trash;
  for (size_t index = 0; index + keep < steps.size(); ++index) {
    const std::string name = io::step_name(steps[index]);
    trash.push_back(folder_ / fmt::format("{}{}-{}", io::kTrashPrefix, name, nonce()));
    rename_folder(folder_ / name, trash.back());
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

std::optional<LoadedCheckpoint> CheckpointStore::newest() {
  return newest_checkpoint(folder_, [this](const std::filesystem::path& damaged) {
    const std::filesystem::path aside =
        folder_ / fmt::format("{}{}-{}", io::kDamagedPrefix, damaged.filename().string(), nonce());
    rename_folder(damaged, aside);
    log::warn(fmt::format("{} is now {}", damaged.string(), aside.filename().string()));
  });
}

}  // namespace unigrpo::checkpoint

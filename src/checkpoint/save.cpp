#include "checkpoint/save.h"

#include <ATen/ATen.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/failure.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/deal.h"
#include "checkpoint/in_rows.h"
#include "io/atomic_file.h"
#include "io/checkpoint_commit.h"
#include "io/checkpoint_layout.h"
#include "io/step_folder.h"
#include "runtime/ranks.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

constexpr const char* kPurpose = "checkpoint";

/// What `work` throws; null where it does not.
template <typename Work>
std::exception_ptr failure_of(const Work& work) {
  try {
    work();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

bool starts_with(const std::filesystem::path& path, std::string_view prefix) {
  return path.filename().string().starts_with(prefix);
}

// What the files will take, headers and JSON estimated from above.
uint64_t bytes_needed(const Snapshot& snapshot) {
  uint64_t bytes = (uint64_t{64} << 10) + snapshot.recipe_toml.size();
  for (const auto& [part, tensors] : snapshot.parts) {
    for (const NamedTensor& entry : tensors) bytes += entry.tensor.nbytes() + entry.name.size() + 256;
  }
  return bytes;
}

// The same of all ranks; a piece is named in its file and in the manifest.
uint64_t bytes_needed(const Snapshot& snapshot, const std::map<std::string, io::StoredTensors>& dealt) {
  uint64_t bytes = (uint64_t{64} << 10) + snapshot.recipe_toml.size();
  for (const auto& [part, tensors] : dealt) {
    for (const auto& [name, tensor] : tensors) {
      for (const io::StoredPiece& piece : tensor.pieces) {
        bytes += static_cast<uint64_t>(piece.count) * io::dtype_size(tensor.dtype) + 2 * name.size() + 512;
      }
    }
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

// `tensors`: contiguous, on the CPU.
io::PartFile part_file(const std::string& name, const NamedTensors& tensors) {
  io::PartFile file{.name = name, .tensors = {}};
  for (const NamedTensor& entry : tensors) file.tensors.push_back(tensor::to_view(entry.tensor, entry.name));
  return file;
}

constexpr int64_t kAlignment = 64;  // bytes
int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int64_t bytes_staged(const std::map<std::string, NamedTensors>& parts) {
  int64_t bytes = 0;
  for (const auto& [part, tensors] : parts) {
    for (const NamedTensor& entry : tensors) bytes += aligned(static_cast<int64_t>(entry.tensor.nbytes()));
  }
  return bytes;
}

bool is_ready(const std::future<void>& work) {
  return !work.valid() || work.wait_for(std::chrono::seconds(0)) != std::future_status::timeout;
}

// How a rank came through a phase, for the others.
struct Report {
  bool failed = false, disk_full = false;
  std::string line = {};
};
template <typename Bytes, SameAs<Report> T>
void fields(Bytes& bytes, T& report) {
  bytes(report.failed, report.disk_full, report.line);
}

Report report_of(const std::exception_ptr& failure) {
  if (!failure) return {};
  try {
    std::rethrow_exception(failure);
  } catch (const io::DiskFull& error) {
    return {.failed = true, .disk_full = true, .line = error.what()};
  } catch (const std::exception& error) {
    return {.failed = true, .line = describe_failure(error).line};
  }
}

std::filesystem::path made(std::filesystem::path folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw RuntimeFailure("{}: cannot create the folder: {}", folder.string(), error.message());
  return folder;
}

}  // namespace

struct CheckpointStore::Pending {
  int64_t step = 0;
  std::filesystem::path destination = {};
  uint64_t wanted = 0;             // bytes, of all ranks
  io::FinishedFiles written = {};  // its files: what this rank has written, once it has; then everyone's
  std::future<void> writing = {}, committing = {};
  bool all_have_written = false;
};

CheckpointStore::CheckpointStore(std::filesystem::path folder, const CheckpointConfig& config, const Runtime& runtime)
    : folder_(std::move(folder)), config_(config), runtime_(runtime) {
  if (!is_root(runtime_)) return;
  lock_.emplace(made(folder_), "folder of checkpoints");
  remove_leftovers();
}

CheckpointStore::~CheckpointStore() = default;

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
  finish();
  const std::filesystem::path destination = folder_ / io::step_name(snapshot.step);
  if (from_root(runtime_, std::filesystem::exists(destination), kPurpose)) {
    std::exception_ptr failure;
    if (is_root(runtime_)) {
      log::info(fmt::format("{} is committed already", destination.string()));
      // A run that was killed in between had not come to it.
      failure = failure_of([&] { io::keep_last_checkpoints(folder_, config_.keep_last); });
    }
    settle(failure);
    return true;
  }
  pending_ = std::make_unique<Pending>(Pending{.step = snapshot.step, .destination = destination});
  begin(snapshot);
  if (pending_ && !config_.async) return finish();
  return pending_ != nullptr;
}

void CheckpointStore::begin(const Snapshot& given) {
  const Snapshot snapshot = in_rows(given, runtime_);
  Pending& save = *pending_;
  save.written.folder = folder_;
  save.written.keep_last = config_.keep_last;
  save.written.manifest = {
      .step = snapshot.step, .world_size = runtime_.mesh.world_size, .recipe_sha256 = sha256_hex(snapshot.recipe_toml)};
  if (runtime_.comm) save.written.manifest.parts = deal(snapshot, runtime_);
  const uint64_t needed = runtime_.comm ? bytes_needed(snapshot, save.written.manifest.parts) : bytes_needed(snapshot);
  save.wanted = needed + needed / 10;
  const std::exception_ptr failure = failure_of([&] {
    if (is_root(runtime_)) save.written.temporary = make_temporary(io::step_name(save.step), save.wanted);
  });
  if (!settle(failure)) return;
  save.written.temporary = from_root(runtime_, save.written.temporary.string(), kPurpose);
  save.written.state =
      nlohmann::json{{"step", snapshot.step}, {"recipe", snapshot.recipe_toml}, {"counters", snapshot.counters}}.dump(
          2) +
      "\n";
  auto own = runtime_.comm ? own_pieces(snapshot, save.written.manifest.parts, runtime_) : whole_tensors(snapshot);
  const auto name = [&](const std::string& part) {
    return io::part_file_name(part, runtime_.mesh.rank, runtime_.mesh.world_size);
  };
  // One process has nobody to wait for. What threads run from here on is without LibTorch.
  const auto then = [this, &save] {
    if (!runtime_.comm) io::commit_checkpoint(save.written);
  };
  if (!config_.async) {
    save.writing = std::async(std::launch::deferred, [&save, then, name, own = std::move(own)] {
      for (const auto& [part, tensors] : own) {
        NamedTensors on_cpu;
        for (const NamedTensor& each : tensors) on_cpu.push_back({each.name, each.tensor.detach().cpu().contiguous()});
        for (auto& file : io::write_part_files(save.written.temporary, {part_file(name(part), on_cpu)})) {
          save.written.manifest.files.push_back(std::move(file));
        }
      }
      then();
    });
    return;
  }
  const int64_t bytes = bytes_staged(own);
  if (!host_.defined() || host_.numel() < bytes) {
    host_.reset();
    host_ = at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(runtime_.device.is_cuda()));
  }
  int64_t used = 0;
  std::vector<io::PartFile> files;
  for (const auto& [part, tensors] : own) files.push_back(part_file(name(part), staged(tensors, used)));
  save.writing = std::async(std::launch::async, [&save, then, files = std::move(files)] {
    save.written.manifest.files = io::write_part_files(save.written.temporary, files);
    then();
  });
}

/// Throws DiskFull where less than `wanted` bytes are free.
std::filesystem::path CheckpointStore::make_temporary(const std::string& name, uint64_t wanted) const {
  if (bytes_free(folder_) < wanted) throw io::DiskFull("{}", std::strerror(ENOSPC));
  const std::filesystem::path temporary = folder_ / io::unique_name(io::kTemporaryPrefix, name);
  io::check_write(::mkdir(temporary.c_str(), 0777) == 0 ? 0 : errno, temporary, "create the folder");
  return temporary;
}

/// Copies of the tensors in the host's memory, from byte `used` of it on.
NamedTensors CheckpointStore::staged(const NamedTensors& tensors, int64_t& used) const {
  const at::NoGradGuard no_grad;
  auto* const memory = static_cast<std::byte*>(host_.mutable_data_ptr());
  NamedTensors copies;
  for (const NamedTensor& each : tensors) {
    at::Tensor copy = at::from_blob(memory + used, each.tensor.sizes(), each.tensor.scalar_type());
    copy.copy_(each.tensor.detach());
    used += aligned(static_cast<int64_t>(each.tensor.nbytes()));
    copies.push_back({each.name, copy});
  }
  return copies;
}

void CheckpointStore::poll() {
  if (pending_) advance(/*wait=*/false);
}

bool CheckpointStore::finish() {
  Outcome outcome = Outcome::committed;
  while (pending_) outcome = advance(/*wait=*/true);
  return outcome == Outcome::committed;
}

/// One phase further, or with `wait` to the end of the phase under way.
CheckpointStore::Outcome CheckpointStore::advance(bool wait) {
  Pending& save = *pending_;
  std::future<void>& work = save.all_have_written ? save.committing : save.writing;
  if (!wait) {
    const std::vector<char> ready = gather<char>(runtime_, is_ready(work) ? 1 : 0, kPurpose);
    if (std::ranges::count(ready, 0) > 0) return Outcome::ongoing;
  }
  std::exception_ptr failure = failure_of([&] {
    if (work.valid()) work.get();
    if (runtime_.comm && !save.all_have_written) {
      io::check_write(fault::effect("save.vote").error, save.written.temporary, "write");
    }
  });
  if (!settle(failure)) return Outcome::none;
  if (runtime_.comm && !save.all_have_written) {
    std::vector<io::Manifest::File> files;
    for (auto& of_rank : gather(runtime_, save.written.manifest.files, kPurpose)) {
      files.insert(files.end(), of_rank.begin(), of_rank.end());
    }
    // The files of a part are about equally large: each rank verifies one of them when they are read.
    std::ranges::sort(files, {}, &io::Manifest::File::name);
    save.written.manifest.files = std::move(files);
    save.all_have_written = true;
    if (is_root(runtime_)) {
      save.committing = std::async(config_.async ? std::launch::async : std::launch::deferred,
                                   [&save] { io::commit_checkpoint(save.written); });
    }
    return Outcome::ongoing;
  }
  if (is_root(runtime_)) log::info(fmt::format("committed step {}: {}", save.step, save.destination.string()));
  pending_.reset();
  return Outcome::committed;
}

/// Whether all ranks came through. Where one did not, the save is over and what it wrote is removed; all throw then, or
/// return false where a full disk may cost the checkpoint.
bool CheckpointStore::settle(const std::exception_ptr& failure) {
  const std::vector<Report> reports = gather(runtime_, report_of(failure), kPurpose);
  const auto first = std::ranges::find_if(reports, &Report::failed);
  if (first == reports.end()) return true;
  const std::unique_ptr<Pending> save = std::move(pending_);  // its threads have ended: each has said how
  if (save && is_root(runtime_) && !save->written.temporary.empty()) {
    std::error_code ignored;  // what cannot be removed now is removed at the next start
    std::filesystem::remove_all(save->written.temporary, ignored);
  }
  const auto full = [&](const std::string& line) {
    return fmt::format("{}: no space for the checkpoint: {} needed, {} free: {}", save->destination.string(),
                       human_bytes(save->wanted), human_bytes(bytes_free(folder_)), line);
  };
  const bool all_full =
      save && std::ranges::all_of(reports, [](const Report& each) { return each.disk_full || !each.failed; });
  if (all_full && config_.on_disk_full == OnDiskFull::proceed) {
    if (is_root(runtime_)) log::error(full(first->line) + " (going on, checkpoint.on_disk_full = continue)");
    return false;
  }
  if (failure) {
    const Report own = report_of(failure);
    if (own.disk_full && save) throw io::DiskFull("{}", full(own.line));
    std::rethrow_exception(failure);
  }
  gather_bytes(runtime_, {}, kPurpose);  // ends when that rank does, and quotes it
  throw PeerLost("rank {} failed: {}", first - reports.begin(), first->line);
}

std::optional<LoadedCheckpoint> CheckpointStore::newest() {
  const auto put_aside = [this](const std::filesystem::path& damaged) {
    const std::filesystem::path aside = folder_ / io::unique_name(io::kDamagedPrefix, damaged.filename().string());
    io::rename_folder(damaged, aside);
    log::warn(fmt::format("{} is now {}", damaged.string(), aside.filename().string()));
  };
  return newest_checkpoint(folder_, put_aside, runtime_);
}

}  // namespace unigrpo::checkpoint

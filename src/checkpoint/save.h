#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "checkpoint/config.h"
#include "checkpoint/resume.h"
#include "io/folder_lock.h"
#include "optim/parameters.h"
#include "runtime/runtime.h"

namespace unigrpo::checkpoint {

/// All that a run needs to go on as if it had never stopped.
struct Snapshot {
  int64_t step = 0;  // steps finished
  std::string recipe_toml = {};
  std::map<std::string, optim::NamedParameters> parts = {};  // "policy", "optimizer", "ema": a file each
  std::map<std::string, std::string> counters = {};          // data position, skipped steps, ...
};

/// The owner of a run's folder of checkpoints: writes, keeps the last few, finds the newest that is sound.
///
/// A save writes every file into `.tmp-step_N-<nonce>` with fsync, then manifest.json, then fsync of that
/// folder, rename to `step_N`, fsync of the parent; only then is it `committed`, said in the log, and may the
/// oldest go (renamed to `.trash-` first). Nothing is overwritten, so a kill at any point leaves each older
/// checkpoint as it was.
/// Fault points: save.manifest, save.commit, save.trash here; those of io::AtomicFile for each file.
class CheckpointStore {
 public:
  /// Creates the folder, takes its lock (`.lock`, held while this object lives) and removes what a dead run left.
  /// Throws BadInput where another process holds the lock, RuntimeFailure where the folder cannot be written.
  CheckpointStore(std::filesystem::path folder, const CheckpointConfig& config, const Runtime& runtime = {});

  /// Commits a checkpoint. Throws RuntimeFailure naming path and cause; where the disk is full, with the bytes
  /// needed (1.1 times the size is asked for beforehand) and free, or, by `on_disk_full = continue`, logs that
  /// and returns false. A failed save leaves nothing but the older checkpoints. A step that is already
  /// committed stays as it is.
  bool save(const Snapshot& snapshot);

  /// The newest checkpoint that verifies, with a warning where that is not the newest of all; newer ones that
  /// do not verify are put aside as `damaged-`. Empty where there is none; throws BadInput, naming the damaged
  /// file, where there are some and none verifies.
  std::optional<LoadedCheckpoint> newest();

  const std::filesystem::path& folder() const { return folder_; }

 private:
  void commit(const Snapshot& snapshot);
  void keep_last();
  void remove_leftovers();

  std::filesystem::path folder_;
  CheckpointConfig config_;
  Mesh mesh_;  // written into manifests
  io::FolderLock lock_;
};

}  // namespace unigrpo::checkpoint

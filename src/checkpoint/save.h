#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/config.h"
#include "checkpoint/resume.h"
#include "checkpoint/snapshot.h"
#include "io/folder_lock.h"
#include "runtime/runtime.h"

namespace unigrpo::checkpoint {

/// A run's folder of checkpoints: writes, keeps the last few, finds the newest that is sound. Every rank has one, and
/// all make the same calls in the same order; the root owns the folder.
///
/// A save has two phases. Each rank writes its files into `.tmp-step_N-<nonce>` with fsync, and says how that went;
/// where all could, the root writes state.json and manifest.json, then fsync of that folder, rename to `step_N`, fsync
/// of the parent; only then is it `committed`, said in the log, and may the oldest go (renamed to `.trash-` first).
/// Where one could not, nobody commits. Nothing is overwritten, so a kill at any point leaves each older checkpoint as
/// it was. With `async` the files are written by a thread, from a copy in host memory, and the root's phase is
/// another's work too; ranks say at poll() how far they are. Fault points: save.vote, save.manifest, save.commit,
/// save.trash here; those of io::write_part_files.
class CheckpointStore {
 public:
  /// On the root: creates the folder, takes its lock (`.lock`, held while this object lives) and removes what a dead
  /// run left. Does not talk to other ranks. Throws BadInput where another process holds the lock, RuntimeFailure where
  /// the folder cannot be written.
  CheckpointStore(std::filesystem::path folder, const CheckpointConfig& config, const Runtime& runtime = {});
  ~CheckpointStore();  // waits for its threads
  CheckpointStore(const CheckpointStore&) = delete;
  CheckpointStore& operator=(const CheckpointStore&) = delete;

  /// Commits a checkpoint, or with `async` begins to, once the one before is done. Throws RuntimeFailure naming path
  /// and cause; where the disk is full, with the bytes needed (1.1 times the size is asked for beforehand) and free,
  /// or, by `on_disk_full = continue`, logs that and returns false. Where another rank has the failure, PeerLost
  /// quoting it. A failed save leaves nothing but the older checkpoints. A step that is already committed stays as it
  /// is.
  bool save(const Snapshot& snapshot);
  /// Whether a save is under way; the same on all ranks.
  bool is_saving() const { return pending_ != nullptr; }
  /// Takes a save that is under way one phase further if all ranks are so far. Throws as save().
  void poll();
  /// Waits for one under way. Throws and returns as save().
  bool finish();

  /// The newest checkpoint that verifies, with a warning where that is not the newest of all; newer ones that
  /// do not verify are put aside as `damaged-`. Empty where there is none; throws BadInput, naming the damaged
  /// file, where there are some and none verifies.
  std::optional<LoadedCheckpoint> newest();

  const std::filesystem::path& folder() const { return folder_; }

 private:
  struct Pending;
  enum class Outcome { ongoing, committed, none };

  void begin(const Snapshot& snapshot);
  std::filesystem::path make_temporary(const std::string& name, uint64_t wanted) const;
  NamedTensors staged(const NamedTensors& tensors, int64_t& used) const;
  Outcome advance(bool wait);
  bool settle(const std::exception_ptr& failure);
  void remove_leftovers();

  std::filesystem::path folder_;
  CheckpointConfig config_;
  Runtime runtime_;
  std::optional<io::FolderLock> lock_;  // the root's
  at::Tensor host_;                     // bytes: the copy that threads write from, kept from save to save
  std::unique_ptr<Pending> pending_;    // null: no save is under way
};

}  // namespace unigrpo::checkpoint

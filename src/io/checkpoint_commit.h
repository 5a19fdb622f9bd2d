#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "io/checkpoint_layout.h"

namespace unigrpo::io {

/// Makes names of folders that no other process, nor this one before, has given: "<prefix><name>-<id>".
std::string unique_name(std::string_view prefix, std::string_view name);
/// Throws DiskFull or RuntimeFailure naming path and cause.
void rename_folder(const std::filesystem::path& from, const std::filesystem::path& to);

/// A checkpoint whose files are all there, in a temporary folder beside those that are committed.
struct FinishedFiles {
  std::filesystem::path folder = {};     // of checkpoints
  std::filesystem::path temporary = {};  // in it
  std::string state = {};                // state.json, not written yet
  Manifest manifest = {};                // of all files but state.json
  int64_t keep_last = 1;
};
/// Commits it: state.json and manifest.json, fsync of the folder, rename to `step_N`, fsync of the parent; then the
/// oldest may go. Throws DiskFull or RuntimeFailure naming path and cause; what was written stays for the caller to
/// remove. Fault points: save.manifest, save.commit, save.trash, those of AtomicFile.
void commit_checkpoint(FinishedFiles finished);

/// Removes all but the last few committed checkpoints, each renamed to `.trash-` first. Fault point: save.trash.
void keep_last_checkpoints(const std::filesystem::path& folder, int64_t keep_last);

}  // namespace unigrpo::io

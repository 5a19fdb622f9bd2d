#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "checkpoint/save.h"
#include "monitor/run_folder.h"
#include "recipe/recipe.h"
#include "runtime/runtime.h"
#include "runtime/stateful.h"

namespace unigrpo::train {

/// The run folder and its checkpoints. The root opens and holds them; other ranks know their names, read what is
/// committed, and wait where the root writes.
class RunFiles {
 public:
  /// Throws BadInput, on all ranks, where the root cannot open the folder.
  RunFiles(const recipe::Recipe& recipe, const Runtime& runtime, bool resume);

  const monitor::RunFolder& folder() const { return folder_; }
  /// Gives the components the state of the newest checkpoint that verifies: the root finds and verifies it, and all
  /// read the same files. Returns its step, 0 where there is none.
  int64_t restore(std::span<Stateful* const> components);
  /// Commits the components' state at `step`: what is the same on all ranks, and pieces, which the root puts together.
  void save(int64_t step, std::span<Stateful* const> components);

 private:
  const recipe::Recipe& recipe_;
  const Runtime& runtime_;
  monitor::RunFolder folder_;
  std::unique_ptr<checkpoint::CheckpointStore> store_;  // null: not the root
};

}  // namespace unigrpo::train

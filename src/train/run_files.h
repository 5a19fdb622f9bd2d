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

/// How far a save must be before the run goes on.
enum class WaitFor { copy, commit };

/// The run folder and its checkpoints. The root opens and holds them; other ranks know their names, write their share
/// of a checkpoint, and read what is committed.
class RunFiles {
 public:
  /// Throws BadInput, on all ranks, where the root cannot open the folder.
  RunFiles(const recipe::Recipe& recipe, const Runtime& runtime, bool resume);

  const monitor::RunFolder& folder() const { return folder_; }
  /// Gives the components the state of the newest checkpoint that verifies: all verify a share of its files, and read
  /// what they need. Returns its step, 0 where there is none.
  int64_t restore(std::span<Stateful* const> components);
  /// Whether checkpoint.every asks for one after that step; the run's end saves anyway.
  bool is_due(int64_t step) const;
  /// Commits the components' state at `step`; with checkpoint.async, and where a copy is enough, in the background.
  void save(int64_t step, std::span<Stateful* const> components, WaitFor until);
  /// Takes a save under way further, `step` being where the run stands; its failure is thrown here.
  void poll(int64_t step);

 private:
  const recipe::Recipe& recipe_;
  const Runtime& runtime_;
  monitor::RunFolder folder_;
  std::unique_ptr<checkpoint::CheckpointStore> store_;
};

}  // namespace unigrpo::train

#include "train/run_files.h"

#include <optional>

#include "checkpoint/stateful.h"
#include "recipe/parse.h"
#include "runtime/ranks.h"

namespace unigrpo::train {
namespace {

constexpr const char* kFolder = "run folder";
constexpr const char* kCheckpoint = "checkpoint";

}  // namespace

RunFiles::RunFiles(const recipe::Recipe& recipe, const Runtime& runtime, bool resume)
    : recipe_(recipe), runtime_(runtime), folder_(together(runtime, kFolder, [&] {
        return is_root(runtime) ? monitor::RunFolder::open(recipe.run_dir(), resume)
                                : monitor::RunFolder::of_another_rank(recipe.run_dir());
      })) {
  together(runtime_, kFolder, [&] {
    store_ = std::make_unique<checkpoint::CheckpointStore>(folder_.checkpoints(), recipe.checkpoint, runtime);
  });
}

int64_t RunFiles::restore(std::span<Stateful* const> components) {
  const std::optional<checkpoint::LoadedCheckpoint> loaded = store_->newest();
  if (!loaded) return 0;
  together(runtime_, kCheckpoint, [&] { checkpoint::restore(components, *loaded); });
  return loaded->step;
}

bool RunFiles::is_due(int64_t step) const {
  const int64_t every = recipe_.checkpoint.every;
  return every > 0 && step % every == 0 && step < recipe_.run.num_steps;
}

void RunFiles::save(int64_t step, std::span<Stateful* const> components, WaitFor until) {
  enter(runtime_, step, "save");
  store_->save(checkpoint::take_snapshot(step, recipe::to_toml(recipe_), components));
  if (until == WaitFor::commit) store_->finish();
}

void RunFiles::poll(int64_t step) {
  if (!store_->is_saving()) return;
  enter(runtime_, step, "save");
  store_->poll();
}

}  // namespace unigrpo::train

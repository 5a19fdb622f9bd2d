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
    if (!is_root(runtime_)) return;
    store_ = std::make_unique<checkpoint::CheckpointStore>(folder_.checkpoints(), recipe.checkpoint);
  });
}

int64_t RunFiles::restore(std::span<Stateful* const> components) {
  std::optional<checkpoint::LoadedCheckpoint> loaded;
  together(runtime_, kCheckpoint, [&] {
    if (store_) loaded = store_->newest();
  });
  const std::string newest = from_root(runtime_, loaded ? loaded->folder.string() : std::string(), kCheckpoint);
  if (newest.empty()) return 0;
  together(runtime_, kCheckpoint, [&] {
    if (!loaded) loaded = checkpoint::open_checkpoint(newest, checkpoint::Verify::no);
    checkpoint::restore(components, *loaded);
  });
  return loaded->step;
}

void RunFiles::save(int64_t step, std::span<Stateful* const> components) {
  enter(runtime_, step, "save");
  const auto snapshot = checkpoint::take_snapshot(step, recipe::to_toml(recipe_), components, runtime_.comm.get());
  on_root(runtime_, step, kCheckpoint, [&] { store_->save(snapshot); });
}

}  // namespace unigrpo::train

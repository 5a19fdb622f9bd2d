#include "train/sft.h"

#include <ATen/Parallel.h>

#include <filesystem>

#include "base/error.h"
#include "base/memory.h"
#include "io/atomic_file.h"
#include "monitor/run_folder.h"
#include "recipe/parse.h"
#include "train/sft_stages.h"

namespace unigrpo::train {

void run_sft(const recipe::Recipe& recipe) {
  const std::filesystem::path output = recipe.sft.output;
  if (std::filesystem::exists(output) &&
      !(std::filesystem::is_directory(output) && std::filesystem::is_empty(output))) {
    throw BadInput("sft.output: {} exists and is not empty; remove it or give another folder", output.string());
  }
  keep_freed_memory();
  if (recipe.run.threads > 0) at::set_num_threads(static_cast<int>(recipe.run.threads));
  const auto folder = monitor::RunFolder::open(recipe.run_dir(), false);
  io::write_file_atomic(folder.recipe_file(), recipe::to_toml(recipe));
  monitor::Monitor monitor({.run_dir = folder.path(), .config = recipe.monitor, .num_steps = recipe.run.num_steps});
  if (recipe.sft.stage == SftStage::autoencoder) {
    train_autoencoder(recipe, monitor);
  } else {
    train_joint(recipe, monitor);
  }
  monitor.finish();
}

}  // namespace unigrpo::train

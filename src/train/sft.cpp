#include "train/sft.h"

#include <ATen/Parallel.h>

#include "io/atomic_file.h"
#include "monitor/run_folder.h"
#include "recipe/parse.h"
#include "train/model_files.h"
#include "train/sft_stages.h"

namespace unigrpo::train {

void run_sft(const recipe::Recipe& recipe) {
  require_new_folder(recipe.sft.output, "sft.output");
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

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "base/signals.h"
#include "cli/commands.h"
#include "ingest/pipeline.h"

namespace unigrpo::cli {

Run declare_ingest(CLI::App& app) {
  const auto options = std::make_shared<ingest::Options>();
  app.add_option("--in", options->in, "Folder of media files, at any depth")->required();
  app.add_option("--out", options->out, "The set: a manifest of each stage")->required();
  app.add_option("--stages", options->stages, "Stages to run, in their order (default: all)")->delimiter(',');
  app.add_option("--workers", options->workers, "Files that are read at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  app.add_flag("--keep-mute", options->keep_mute, "Keep what has no sound, or a silent one, for its pictures");
  app.add_option("--curriculum", options->curriculum, "JSON file of a curriculum's stages");
  return [options] {
    options->stop = signals::install();
    ingest::run_stages(*options);
    return 0;
  };
}

}  // namespace unigrpo::cli

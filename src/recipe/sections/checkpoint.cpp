#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using checkpoint::CheckpointConfig;

Section checkpoint_section() {
  return Builder("checkpoint", "checkpoints", [](Recipe& r, size_t) -> auto& { return r.checkpoint; })
      .row("every", &CheckpointConfig::every, "steps; 0: only at the end", between(0, kMany))
      .row("keep_last", &CheckpointConfig::keep_last, "checkpoints that stay", between(1, kMany))
      .row("on_disk_full", &CheckpointConfig::on_disk_full, "a checkpoint that does not fit")
      .row("async", &CheckpointConfig::async, "written beside the next steps, from a copy in host memory");
}

}  // namespace

std::vector<Section> checkpoint_sections() { return {checkpoint_section()}; }

}  // namespace unigrpo::recipe

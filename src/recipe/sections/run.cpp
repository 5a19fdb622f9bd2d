#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

constexpr TextRule kFolderName = {[](std::string_view text) {
                                    return !text.empty() && text.size() <= 200 && text != "." && text != ".." &&
                                           text.find('/') == std::string_view::npos;
                                  },
                                  "a folder name (1 to 200 bytes, no '/')", ""};

Section run_section() {
  return Builder("run", "the run as a whole", [](Recipe& r, size_t) -> auto& { return r.run; })
      .row("name", &RunConfig::name, "names the run folder", text(kFolderName))
      .row("dir", &RunConfig::dir, "run folder; empty: runs/<name>")
      .row("seed", &RunConfig::seed, "of every random stream", at_least(0))
      .row("num_steps", &RunConfig::num_steps, "steps of the run", between(1, kMany))
      .row("threads", &RunConfig::threads, "0: all cores", between(0, 4096))
      .row("deterministic", &RunConfig::deterministic,
           "on a GPU: the same bits in every run, at some cost of speed (the CPU gives them always)");
}

}  // namespace

std::vector<Section> run_sections() { return {run_section()}; }

}  // namespace unigrpo::recipe

#include <algorithm>

#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using Find = TaskConfig& (*)(Recipe& recipe, size_t index);

/// A part of metrics' and files' names.
constexpr TextRule kTaskName = {[](std::string_view text) {
                                  const auto is_fit = [](char c) {
                                    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                                           c == '_' || c == '-';
                                  };
                                  return !text.empty() && text.size() <= 64 && std::ranges::all_of(text, is_fit);
                                },
                                "a name of letters, digits and _ - (1 to 64)", ""};

Section tasks_section() {
  return Builder<Find>("tasks", "several tasks in one step, over shared weights",
                       [](Recipe& r, size_t i) -> TaskConfig& { return r.tasks[i]; })
      .list_of([](Recipe& r) -> auto& { return r.tasks; })
      .row("name", &TaskConfig::name, "the metrics are task/<name>/...", text(kTaskName), kAlways)
      .row("prompts", &TaskConfig::prompts, "its prompt file (JSONL), in place of data.prompts", text(kNonEmpty),
           kAlways)
      .row("episode", &TaskConfig::episode, "segments of its samples in order; empty: rollout.episode",
           list_or_empty(kSegment))
      .row("rewards", &TaskConfig::rewards, "names of the [[rewards]] that judge it; empty: all",
           list_or_empty(kNonEmpty))
      .row("share", &TaskConfig::share,
           "of a step's prompts, relative to the other tasks'; points: [steps done, share], straight lines between",
           at_least(0, kLarge))
      .row("num_steps", &TaskConfig::num_steps, "denoising steps of an image; 0: rollout.num_steps",
           or_else(0, between(1, 10000)))
      .row("image_size", &TaskConfig::image_size, "pixels, square; 0: rollout.image_size", or_else(0, between(1, 8192)))
      .row("max_tokens", &TaskConfig::max_tokens, "of a text segment; 0: rollout.max_tokens",
           or_else(0, between(1, 1e6)))
      .row("system_prompt", &TaskConfig::system_prompt, "empty: rollout.system_prompt", lines())
      .row("eval_prompts", &TaskConfig::eval_prompts, "prompt file on which the task is evaluated; empty: none");
}

}  // namespace

std::vector<Section> task_sections() { return {tasks_section()}; }

}  // namespace unigrpo::recipe

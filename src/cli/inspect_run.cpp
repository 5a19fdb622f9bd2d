#include "cli/inspect_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/checkpoint_layout.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/step_folder.h"
#include "monitor/metrics_file.h"
#include "recipe/parse.h"
#include "recipe/tasks.h"

namespace unigrpo::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string row(const std::string& what, const std::string& value) { return fmt::format("\n  {:<18} {}", what, value); }

/// "3 steps", "1 step".
std::string counted(int64_t count, const char* word) {
  return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
}

/// What a recipe trains, in words. `toml` is what a run wrote, so an old key is no reason to show nothing.
std::string recipe_line(const std::string& toml, const std::string& where) {
  try {
    const recipe::Recipe recipe = recipe::parse_text(toml, where, {}, recipe::Command::check);
    std::vector<std::string> prompts;
    for (const recipe::Task& task : recipe::tasks_of(recipe)) {
      prompts.push_back(task.is_named() ? fmt::format("{} ({})", task.prompts, task.name) : task.prompts);
    }
    return fmt::format("{}: {} on {}, {} steps", recipe.run.name, recipe.policy.model, join(prompts, ", "),
                       recipe.run.num_steps);
  } catch (const BadInput&) {
    return "of another version, or damaged";
  }
}

struct Part {
  std::string name;  // "policy"
  size_t tensors = 0;
  uint64_t bytes = 0;
  std::map<std::string, size_t> dtypes = {};  // name -> tensors
};

Part read_part(const fs::path& file) {
  const io::SafetensorsFile tensors(file);
  Part part;
  part.name = file.stem().string();
  for (const io::TensorView& tensor : tensors.tensors()) {
    ++part.tensors;
    part.bytes += tensor.bytes.size();
    ++part.dtypes[std::string(io::dtype_name(tensor.dtype))];
  }
  return part;
}

/// What several ranks wrote, as their manifest tells.
Part spread_part(const std::string& name, const io::StoredTensors& tensors) {
  Part part{.name = name};
  for (const auto& [tensor, stored] : tensors) {
    ++part.tensors;
    for (const io::StoredPiece& piece : stored.pieces) {
      part.bytes += static_cast<uint64_t>(piece.count) * io::dtype_size(stored.dtype);
    }
    ++part.dtypes[std::string(io::dtype_name(stored.dtype))];
  }
  return part;
}

std::string dtypes_of(const Part& part) {
  std::string text;
  for (const auto& [dtype, count] : part.dtypes) text += (text.empty() ? "" : ", ") + dtype;
  return text;
}

/// Counters "<component>.<key>" by component; what is long (sums, reference values) is counted, not shown.
std::map<std::string, std::string> by_component(const std::map<std::string, std::string>& counters) {
  constexpr size_t kShown = 24;  // bytes of a value
  std::map<std::string, std::string> texts;
  std::map<std::string, int64_t> long_ones;
  for (const auto& [name, value] : counters) {
    const size_t dot = name.find('.');
    const std::string component = name.substr(0, dot);
    if (value.size() > kShown) {
      ++long_ones[component];
      continue;
    }
    std::string& text = texts[component];
    text += (text.empty() ? "" : ", ") + (dot == std::string::npos ? "" : name.substr(dot + 1) + " ") + value;
  }
  for (const auto& [component, count] : long_ones) {
    std::string& text = texts[component];
    text += (text.empty() ? "" : ", and ") + counted(count, "longer value");
  }
  return texts;
}

}  // namespace

std::string inspect_checkpoint(const fs::path& folder, bool json) {
  const io::Manifest manifest = io::read_manifest(folder / io::kManifestFile);
  io::verify_files(folder, manifest);
  const fs::path state_file = folder / io::kStateFile;
  const nlohmann::json state = io::read_json_file(state_file);
  std::string recipe;
  std::map<std::string, std::string> counters;
  try {
    recipe = state.at("recipe").get<std::string>();
    counters = state.at("counters").get<std::map<std::string, std::string>>();
  } catch (const nlohmann::json::exception& error) {
    throw BadInput("{}: not a checkpoint's state: {}", state_file.string(), error.what());
  }
  std::vector<Part> parts;
  uint64_t bytes = 0;
  for (const io::Manifest::File& file : manifest.files) {
    bytes += file.size;
    if (!file.name.ends_with(".safetensors")) continue;
    Part part = read_part(folder / file.name);  // pieces too: their headers must be sound
    if (manifest.parts.empty()) parts.push_back(std::move(part));
  }
  for (const auto& [name, tensors] : manifest.parts) parts.push_back(spread_part(name, tensors));
  if (json) {
    Json object{{"kind", "checkpoint"}, {"step", manifest.step}, {"bytes", bytes}, {"parts", Json::array()}};
    for (const Part& part : parts) {
      object["parts"].push_back(
          Json{{"name", part.name}, {"tensors", part.tensors}, {"bytes", part.bytes}, {"dtypes", part.dtypes}});
    }
    if (manifest.world_size > 1) object["ranks"] = manifest.world_size;
    object["counters"] = counters;
    object["recipe"] = recipe;
    return object.dump();
  }
  std::string text = fmt::format("{}: checkpoint after {}, {}{}, all files as its manifest says", folder.string(),
                                 counted(manifest.step, "step"), human_bytes(bytes),
                                 manifest.world_size > 1 ? fmt::format(" of {} ranks", manifest.world_size) : "");
  text += row("recipe", recipe_line(recipe, state_file.string()));
  auto values = by_component(counters);
  for (const Part& part : parts) {
    const auto more = values.extract(part.name);
    text +=
        row(part.name, fmt::format("{} tensors, {}{}{}{}", part.tensors, human_bytes(part.bytes),
                                   part.tensors > 0 ? ", " : "", dtypes_of(part), more ? "; " + more.mapped() : ""));
  }
  for (const auto& [component, value] : values) text += row(component, value);
  return text +
         "\n  `train ... --resume` goes on from it, `unigrpo export` makes a model folder of it; `sample` and `eval` "
         "take "
         "that";
}

namespace {

struct RunFacts {
  std::string recipe;
  std::optional<recipe::Recipe> parsed;
  int64_t steps = 0;                   // done
  std::map<std::string, double> last;  // metrics of the last row
  std::vector<int64_t> checkpoints, samples;
  std::vector<std::string> evals;   // "before", "after", "step_000020"
  std::vector<std::string> models;  // "final", "best"
};

RunFacts read_run(const fs::path& folder) {
  RunFacts facts;
  if (const fs::path file = folder / "recipe.toml"; fs::exists(file)) {
    facts.recipe = io::read_text_file(file);
    try {
      facts.parsed = recipe::parse_text(facts.recipe, file.string(), {}, recipe::Command::check);
    } catch (const BadInput&) {  // told as recipe_line does
    }
  }
  if (const fs::path file = folder / "metrics.jsonl"; fs::exists(file)) {
    const monitor::MetricsTable metrics = monitor::read_metrics(file);
    const auto seconds = metrics.columns.find("time/step");  // a row from before training has none
    facts.steps = seconds == metrics.columns.end()
                      ? static_cast<int64_t>(metrics.steps.size())
                      : std::ranges::count_if(seconds->second, [](const auto& value) { return value.has_value(); });
    for (const auto& [name, values] : metrics.columns) {
      if (!values.empty() && values.back()) facts.last[name] = *values.back();
    }
  }
  facts.checkpoints = io::list_steps(folder / "checkpoints");
  facts.samples = io::list_steps(folder / "samples");
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("eval_") && name.ends_with(".json")) facts.evals.push_back(name.substr(5, name.size() - 10));
    if (fs::exists(entry.path() / "config.json")) facts.models.push_back(name);
  }
  std::ranges::sort(facts.evals);
  std::ranges::sort(facts.models);
  return facts;
}

std::string steps_text(const std::vector<int64_t>& steps) {
  std::string text;
  for (const int64_t step : steps) text += (text.empty() ? "" : ", ") + std::to_string(step);
  return text.empty() ? "none" : "step " + text;
}

}  // namespace

std::string inspect_run(const fs::path& folder, bool json) {
  const RunFacts facts = read_run(folder);
  if (json) {
    return Json{{"kind", "run"},
                {"steps", facts.steps},
                {"checkpoints", facts.checkpoints},
                {"samples", facts.samples},
                {"evals", facts.evals},
                {"models", facts.models},
                {"metrics", facts.last},
                {"recipe", facts.recipe}}
        .dump();
  }
  std::string text =
      fmt::format("{}: run, {} done", folder.string(),
                  facts.parsed ? fmt::format("{} of {}", facts.steps, counted(facts.parsed->run.num_steps, "step"))
                               : counted(facts.steps, "step"));
  if (!facts.recipe.empty()) text += row("recipe", recipe_line(facts.recipe, (folder / "recipe.toml").string()));
  text += row("checkpoints", steps_text(facts.checkpoints));
  text += row("samples", steps_text(facts.samples));
  text += row("evaluations", facts.evals.empty() ? "none" : join(facts.evals, ", "));
  text += row("model folders", facts.models.empty() ? "none yet" : join(facts.models, ", "));
  for (const char* name : {"reward/mean", "loss", "eval/official", "eval/strict", "optim/grad_norm"}) {
    if (const auto found = facts.last.find(name); found != facts.last.end()) {
      text += row(name, fmt::format("{:.4g} in the last step", found->second));
    }
  }
  return text;
}

}  // namespace unigrpo::cli

#include "train/dry_run.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "base/enum_names.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"
#include "io/model_folder.h"
#include "monitor/drift_monitor.h"
#include "policy/load.h"
#include "policy/qwen2/qwen2.h"
#include "recipe/tasks.h"
#include "runtime/runtime.h"
#include "train/rank_share.h"
#include "train/step_facts.h"
#include "train/step_time.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
using recipe::Recipe;

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr double kReserve = 4 * kGiB;  // that CUDA, NCCL, kernels' workspaces and fragmentation take
// What LibTorch itself takes once it has run, as resident memory, measured on the embedded model.
constexpr double kLibTorch = 56.0 * 1024 * 1024;

std::string in_words(double value) {
  for (const auto& [unit, name] : {std::pair{1e15, "P"}, {1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}}) {
    if (value >= unit) return fmt::format("{:.2f} {}", value / unit, name);
  }
  return fmt::format("{:.0f} ", value);
}

constexpr const char* kPartNames[] = {"language model, understanding", "language model, generation",
                                      "token embeddings and lm_head",  "latents and time",
                                      "vision tower and connector",    "autoencoder"};

/// Holds the headers of the weights against the config: names and shapes.
std::string check_headers(const fs::path& folder, const policy::ModelSizes& sizes) {
  std::map<std::string, at::Tensor> wanted;
  for (const NamedTensor& tensor : sizes.shapes) wanted.emplace(tensor.name, tensor.tensor);
  auto check = [&](const io::Checkpoint& checkpoint, const std::string& prefix) {
    std::set<std::string> seen;
    for (const io::TensorView* view : checkpoint.tensors()) {
      if (policy::is_tied_copy(sizes.llm, prefix + view->name)) continue;
      const auto found = wanted.find(prefix + view->name);
      if (found == wanted.end()) {
        throw BadInput("{}: tensor '{}' is not one that the config asks for", checkpoint.path().string(), view->name);
      }
      if (found->second.sizes() != at::IntArrayRef(view->shape)) {
        throw BadInput("{}: tensor '{}' has a shape that the config does not ask for", checkpoint.path().string(),
                       view->name);
      }
      seen.insert(found->first);
    }
    for (const auto& [name, tensor] : wanted) {
      const bool mine = name.starts_with("autoencoder.") == !prefix.empty();
      if (mine && !seen.contains(name)) {
        throw BadInput("{}: tensor '{}' is missing", checkpoint.path().string(), name.substr(prefix.size()));
      }
    }
  };
  const auto weights = io::find_weights(folder, sizes.family->weights_file);
  if (!weights) return "no weights in the folder: sizes are the config's";
  check(io::Checkpoint::open(*weights), "");
  if (sizes.images && fs::exists(folder / "ae.safetensors"))
    check(io::Checkpoint::open(folder / "ae.safetensors"), "autoencoder.");
  return "the weights' headers fit the config";
}

std::string row(const std::string& what, const std::string& value) {
  return fmt::format("  {:<40} {:>20}\n", what, value);
}

std::string parameters_table(const StepFacts& facts) {
  const Parameters& count = facts.count;
  std::string text = "\nparameters                                              all              trained\n";
  const auto line = [&](const char* what, double all, double trained) {
    text += fmt::format("  {:<40} {:>16} {:>20}\n", what, in_words(all), in_words(trained));
  };
  for (int part = 0; part < kNumParts; ++part) line(kPartNames[part], count.all[part], count.trained[part]);
  if (facts.lora) line("adapters", count.adapters, count.adapters);
  line("in all", count.total(true) + count.adapters, count.total_trained());
  return text;
}

std::string step_table(const StepFacts& facts, const Machine& machine) {
  const auto& [recipe, t] = std::tie(facts.recipe, facts.tokens);
  const StepFlops flops = step_flops(facts);
  const auto samples = static_cast<int64_t>(t.samples);

  std::string text = fmt::format("\na step                                                  {}\n", facts.prompts);
  text += row("prompts x group = samples",
              fmt::format("{} x {} = {}", recipe.grpo.prompts_per_step, recipe.grpo.group_size, samples));
  text += row("and for the drift monitor", monitor::describe(recipe.monitor.drift, samples));
  text += row("sampled text tokens at most", in_words(t.text));
  text += row("image tokens, once a denoising step", in_words(t.drawn));
  text += row("image tokens that are trained", in_words(t.trained_image));
  text += row("FLOPs of the rollout", in_words(flops.decode + flops.other_rollout));
  text += row(fmt::format("FLOPs of the update ({:.0f} passes)", flops.passes), in_words(flops.update));
  text += row("FLOPs of the drift monitor's samples", in_words(flops.probes));
  text += row(machine.num_gpus > 0    ? "in all, a GPU"
              : machine.num_ranks > 1 ? "in all, a rank"
                                      : "in all",
              in_words(flops.total() / static_cast<double>(machine.ranks())));
  return text;
}

/// A column a spread: one process, and where there are ranks one of them.
std::string memory_lines(const std::vector<RankMemory>& columns) {
  std::string text;
  const auto part = [&](const std::string& title, std::vector<Amount> RankMemory::*amounts) {
    std::vector<std::string> names;
    for (const RankMemory& column : columns) {
      for (const Amount& amount : column.*amounts) {
        if (std::ranges::find(names, amount.what) == names.end()) names.push_back(amount.what);
      }
    }
    if (!names.empty() && !title.empty()) text += title + "\n";
    for (const std::string& name : names) {
      text += fmt::format("  {:<40}", name);
      for (const RankMemory& column : columns) {
        const auto found = std::ranges::find(column.*amounts, name, &Amount::what);
        text += fmt::format(" {:>16.3f}", found == (column.*amounts).end() ? 0 : found->bytes / kGiB);
      }
      text += '\n';
    }
  };
  part("", &RankMemory::held);
  part("while it samples, besides", &RankMemory::sampling);
  part("while it learns, besides", &RankMemory::learning);
  text += fmt::format("  {:<40}", "in all");
  for (const RankMemory& column : columns) text += fmt::format(" {:>16.3f}", column.total() / kGiB);
  return text + '\n';
}

std::string verdict(const std::string& what, double bytes, double gib) {
  const double room = gib - bytes / kGiB;
  return fmt::format("{}: {} {:.1f} GiB of {:.0f}\n", what, room >= 0 ? "fits, leaving" : "does NOT fit, short of",
                     std::abs(room), gib);
}

/// With what each rank takes besides.
RankMemory memory_on(const Machine& machine, const StepFacts& facts, const RankSpread& spread) {
  RankMemory memory = memory_of_rank(facts, spread);
  const bool on_gpus = machine.num_gpus > 0;
  if (on_gpus) std::erase_if(memory.held, [](const Amount& amount) { return amount.what == kAsyncCopy; });
  const Amount besides{on_gpus ? "reserve" : "LibTorch, once it has run", on_gpus ? kReserve : kLibTorch};
  memory.held.push_back(besides);
  return memory;
}

/// The least sharing with which a rank fits, where that which the recipe says does not.
std::string what_would_fit(const StepFacts& facts, const Machine& machine, const RankSpread& spread, double gib) {
  if (spread.is_exact) return {};
  for (int level = static_cast<int>(spread.shard) + 1; level <= static_cast<int>(parallel::Shard::weights); ++level) {
    Recipe recipe = facts.recipe;
    recipe.parallel.shard = static_cast<parallel::Shard>(level);
    const RankSpread other = spread_on_ranks(recipe, spread.ranks, spread.threads);
    const double bytes = memory_on(machine, facts, other).total();
    if (bytes / kGiB <= gib) return verdict(fmt::format("parallel.shard = \"{}\"", enum_name(other.shard)), bytes, gib);
  }
  return {};
}

std::string memory_table(const StepFacts& facts, const Machine& machine) {
  const int64_t ranks = machine.ranks();
  const int64_t all_threads = num_threads({.threads = facts.recipe.run.threads});
  const int64_t threads =
      facts.recipe.run.threads > 0 ? all_threads : std::max<int64_t>(1, all_threads / machine.ranks_here());
  const RankSpread alone = spread_on_ranks(facts.recipe, 1, all_threads),
                   spread = spread_on_ranks(facts.recipe, ranks, threads);
  std::vector<RankMemory> columns = {memory_on(machine, facts, alone)};
  std::string text = "\nmemory, GiB\n";
  if (ranks > 1) {
    columns.push_back(memory_on(machine, facts, spread));
    text = fmt::format("\nmemory, GiB{:>48} {:>16}\n", "one process", fmt::format("a rank of {}", ranks));
  }
  text += memory_lines(columns);
  const double machine_gib =
      machine.memory_gib > 0 ? machine.memory_gib : static_cast<double>(memory_of_machine()) / kGiB;
  const double here = machine.num_gpus > 0 ? 1 : static_cast<double>(machine.ranks_here());
  const double gib = machine.num_gpus > 0 ? machine.gpu_gib : machine_gib / here;
  if (ranks == 1) {
    return text + verdict(machine.num_gpus > 0 ? "one GPU" : "this machine's memory", columns[0].total(), gib);
  }
  text += verdict(fmt::format("a rank ({})", describe(spread)), columns[1].total(), gib);
  if (columns[1].total() / kGiB > gib) text += what_would_fit(facts, machine, spread, gib);
  const std::vector<Amount> sent = sent_by_rank(facts, spread);
  double sum = 0;
  std::vector<std::string> parts;
  for (const Amount& amount : sent) {
    sum += amount.bytes;
    parts.push_back(fmt::format("{} {}B", amount.what, in_words(amount.bytes)));
  }
  return text + fmt::format("each rank sends {}B a step: {}\n", in_words(sum), join(parts, ", "));
}

/// The time of a step on this machine, where it is to be told and can be.
std::string time_line(const StepFacts& facts, const Machine& machine) {
  if (machine.num_gpus > 0 || machine.num_ranks > 1 || !machine.measure) return {};
  const std::string folder = facts.recipe.policy.model;
  const std::string head = "a step on this machine: ";
  if (!io::find_weights(folder, facts.model.family->weights_file))
    return head + "not measured, no weights in the folder\n";
  const std::vector<recipe::Task> tasks = recipe::tasks_of(facts.recipe);
  if (tasks.size() > 1) return head + "not measured, the recipe has several tasks\n";
  if (!fs::exists(tasks.front().prompts)) return head + "not measured, the prompts are not here\n";
  const StepFlops flops = step_flops(facts);
  const auto& llm = facts.model.llm;
  const StepTime time = step_time(facts.recipe, {.decode_flops = flops.decode,
                                                 .other_flops = flops.other_rollout,
                                                 .update_flops = flops.update,
                                                 .drift_samples = probes_a_step(facts),
                                                 .width = llm.hidden_size,
                                                 .inner_width = llm.intermediate_size,
                                                 .bf16 = facts.bf16});
  return head + fmt::format("about {} without rewards and evaluation (rollout {}, update {}, drift monitor {}), {}\n",
                            human_seconds(time.rollout + time.update + time.drift), human_seconds(time.rollout),
                            human_seconds(time.update), human_seconds(time.drift), time.how);
}

}  // namespace

std::string dry_run(const Recipe& recipe, const Machine& machine) {
  const fs::path folder = recipe.policy.model;
  const policy::ModelSizes model = policy::read_sizes(folder);
  const StepFacts facts = step_facts(recipe, model);
  return fmt::format("dry run: {} ({})\n", recipe.run.name, check_headers(folder, model)) + parameters_table(facts) +
         step_table(facts, machine) + memory_table(facts, machine) + time_line(facts, machine);
}

}  // namespace unigrpo::train

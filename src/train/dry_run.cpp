#include "train/dry_run.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"
#include "grpo/update.h"
#include "io/model_folder.h"
#include "kernels/linear.h"
#include "monitor/drift_monitor.h"
#include "policy/kv_cache.h"
#include "policy/load.h"
#include "policy/qwen2/qwen2.h"
#include "recipe/tasks.h"
#include "rollout/rules.h"
#include "runtime/runtime.h"
#include "train/step_time.h"
#include "train/task_run.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
using recipe::Recipe;

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr int64_t kPromptTokens = 64;  // where the prompt file is not here
constexpr double kBytesPerToken = 4;   // of English text, for prompts
constexpr double kReserve = 4;         // GiB that CUDA, NCCL, kernels' workspaces and fragmentation take
// Measured on the embedded model, as resident memory: what LibTorch itself takes once it has run, and the feature maps
// of an image's full size and smallest width that its decoding holds at once.
constexpr double kLibTorchMiB = 56;
constexpr double kDecodedMaps = 12;

std::string in_words(double value) {
  for (const auto& [unit, name] : {std::pair{1e15, "P"}, {1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}}) {
    if (value >= unit) return fmt::format("{:.2f} {}", value / unit, name);
  }
  return fmt::format("{:.0f} ", value);
}

/// Parts of a model, in the order of the table.
enum Part { kUnderstanding, kGeneration, kEmbeddings, kLatents, kVision, kAutoencoder, kNumParts };
constexpr const char* kPartNames[] = {"language model, understanding", "language model, generation",
                                      "token embeddings and lm_head",  "latents and time",
                                      "vision tower and connector",    "autoencoder"};

Part part_of(const policy::MotConfig& llm, const std::string& name) {
  if (name.starts_with("autoencoder.")) return kAutoencoder;
  if (name.starts_with("vit_model.") || name.starts_with("connector.") || name.starts_with("vit_pos_embed."))
    return kVision;
  if (!name.starts_with(llm.prefix)) return kLatents;
  if (name.find("embed_tokens") != std::string::npos || name.find("lm_head") != std::string::npos) return kEmbeddings;
  return name.find("_moe_gen") != std::string::npos ? kGeneration : kUnderstanding;
}

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
  return std::ranges::any_of(patterns, [&](const std::string& pattern) { return matches_pattern(name, pattern); });
}

struct Parameters {
  std::array<double, kNumParts> all{}, trained{};
  double adapters = 0;  // of LoRA

  double total(bool with_autoencoder) const {
    double sum = 0;
    for (int part = 0; part < kNumParts; ++part) sum += part == kAutoencoder && !with_autoencoder ? 0 : all[part];
    return sum;
  }
  double total_trained() const {
    double sum = adapters;
    for (const double count : trained) sum += count;
    return sum;
  }
};

Parameters count_parameters(const Recipe& recipe, const policy::ModelSizes& sizes) {
  Parameters count;
  const auto& policy = recipe.policy;
  const bool lora = policy.train == policy::TrainMode::lora;
  NamedTensors linears, parameters;
  for (const NamedTensor& tensor : sizes.shapes) {
    const Part part = part_of(sizes.llm, tensor.name);
    const auto elements = static_cast<double>(tensor.tensor.numel());
    count.all[part] += elements;
    if (part != kAutoencoder) parameters.push_back(tensor);
    if (lora) {
      const bool linear = tensor.name.starts_with(sizes.llm.prefix + "model.layers.") && tensor.tensor.dim() == 2;
      if (linear) linears.push_back(tensor);
      if (!linear || !matches_any(policy.lora.targets, tensor.name)) continue;
      count.adapters += static_cast<double>(policy.lora.rank * (tensor.tensor.size(0) + tensor.tensor.size(1)));
    } else if (part != kAutoencoder && !matches_any(policy.freeze, tensor.name)) {
      count.trained[part] += elements;
    }
  }
  if (lora) policy::check_targets(policy, linears);
  policy::check_freeze(policy, parameters);
  return count;
}

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

/// Tokens of one step, over all its samples.
struct Tokens {
  double samples = 0, prefix = 0, text = 0;  // counts; prompt tokens (once a group); sampled at most
  double drawn = 0;                          // image tokens, once a denoising step
  double context = 0;                        // image tokens that later segments read
  double trained_image = 0;                  // image tokens of trained steps
  double row_context = 0;                    // tokens that a row ends up seeing
  double block = 0;                          // of one image
};

/// Tokens of an image; 0 where the model has none.
rollout::ImageTokens image_tokens(const Recipe& recipe, const recipe::Task& task, const policy::ModelSizes& sizes) {
  if (!sizes.images) {
    recipe::told_of(recipe, task, "episode", [&] {
      if (has_segment(task.rollout, data::SegmentKind::image)) policy::refuse_images(recipe.policy.model);
    });
    return {};
  }
  const auto block_of = [](int64_t pixels, int64_t pixels_per_token) {
    const double side = static_cast<double>(pixels) / static_cast<double>(pixels_per_token);
    return static_cast<int64_t>(side * side) + 2;
  };
  const int64_t pixels = task.rollout.image_size;
  return {.block = block_of(pixels, sizes.images->pixels_per_latent),
          .seen = block_of(std::min<int64_t>(pixels, sizes.images->max_vision_side), sizes.images->pixels_per_patch)};
}

/// Of `prompts` prompts of a task.
Tokens count_tokens(const Recipe& recipe, const recipe::Task& task, rollout::ImageTokens image, double prompts,
                    double prompt_tokens) {
  const double samples = prompts * static_cast<double>(recipe.grpo.group_size);
  const rollout::SampleTokens sample = rollout::count_tokens(task.rollout, image);
  return {.samples = samples,
          .prefix = prompts * prompt_tokens,
          .text = samples * static_cast<double>(sample.sampled),
          .drawn = samples * static_cast<double>(sample.denoised),
          .context = samples * static_cast<double>(sample.images),
          .trained_image = samples * static_cast<double>(sample.trained),
          .row_context = prompt_tokens + static_cast<double>(sample.texts + sample.images),
          .block = static_cast<double>(image.block)};
}

/// Tokens of a step that has both; a row is as long as the longer one's.
Tokens operator+(const Tokens& a, const Tokens& b) {
  return {.samples = a.samples + b.samples,
          .prefix = a.prefix + b.prefix,
          .text = a.text + b.text,
          .drawn = a.drawn + b.drawn,
          .context = a.context + b.context,
          .trained_image = a.trained_image + b.trained_image,
          .row_context = std::max(a.row_context, b.row_context),
          .block = std::max(a.block, b.block)};
}

/// All that the tables below are made of.
struct Facts {
  const Recipe& recipe;
  const Machine& machine;
  const policy::ModelSizes& model;
  Parameters count;
  Tokens tokens;
  std::string prompts;  // where they come from, in words
  bool lora, bf16, reference;
  double workers = 1;  // micro-batches at once

  double bytes() const { return bf16 ? 2 : 4; }  // of a weight
};

std::string row(const std::string& what, const std::string& value) {
  return fmt::format("  {:<40} {:>20}\n", what, value);
}

/// Tokens of a task's prompt, the system prompt's among them, and the prompts in words.
std::pair<double, std::string> prompt_tokens(const Recipe& recipe, const recipe::Task& task) {
  const double system = static_cast<double>(task.rollout.system_prompt.size()) / kBytesPerToken;
  if (!fs::exists(task.prompts)) {
    return {kPromptTokens + system,
            fmt::format("{} is not here: {} tokens a prompt assumed", task.prompts, kPromptTokens)};
  }
  double characters = 0;
  const auto rows = read_prompts(recipe, task);
  for (const auto& prompt : rows) characters += static_cast<double>(prompt.text.size());
  const double tokens = characters / static_cast<double>(rows.size()) / kBytesPerToken + 2;
  return {tokens + system, fmt::format("{} prompts of about {:.0f} tokens", rows.size(), tokens)};
}

/// Of the first step's tasks, and their prompts in words.
std::pair<Tokens, std::string> step_tokens(const Recipe& recipe, const policy::ModelSizes& model) {
  const std::vector<recipe::Task> tasks = recipe::tasks_of(recipe);
  const std::vector<int64_t> counts = recipe::prompts_of(tasks, recipe.grpo.prompts_per_step, 0);
  Tokens step;
  std::vector<std::string> words;
  for (size_t t = 0; t < tasks.size(); ++t) {
    const auto [tokens, prompts] = prompt_tokens(recipe, tasks[t]);
    const rollout::ImageTokens image = image_tokens(recipe, tasks[t], model);
    step = step + count_tokens(recipe, tasks[t], image, static_cast<double>(counts[t]), tokens);
    words.push_back(tasks[t].is_named() ? fmt::format("{}: {} a step, {}", tasks[t].name, counts[t], prompts)
                                        : prompts);
  }
  return {step, join(words, "; ")};
}

std::string parameters_table(const Facts& facts) {
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

struct StepFlops {
  double decode, other_rollout, update, probes;
  double passes;  // forward passes that the update costs

  double total() const { return decode + other_rollout + update + probes; }
};

double probes_a_step(const Facts& facts) {
  const monitor::DriftConfig& drift = facts.recipe.monitor.drift;
  return drift.enabled ? monitor::plan_probes(drift, static_cast<int64_t>(facts.tokens.samples)).samples_a_step() : 0;
}

StepFlops step_flops(const Facts& facts) {
  const auto& [recipe, t, llm] = std::tie(facts.recipe, facts.tokens, facts.model.llm);
  // Forward FLOPs of a token: two a weight it passes.
  const double und = 2 * facts.count.all[kUnderstanding], gen = 2 * facts.count.all[kGeneration];
  const double head = 2.0 * static_cast<double>(llm.vocab_size * llm.hidden_size);
  const double pair = 4.0 * static_cast<double>(llm.num_layers * llm.num_heads * llm.head_dim);  // a query and a key
  const double attend_text = pair * t.row_context / 2, attend_image = pair * (t.row_context + t.block);
  const double prefix = t.prefix * (und + attend_text), decode = t.text * (und + head + attend_text);
  const double other = prefix + t.context * (und + attend_image) + t.drawn * (gen + attend_image);
  const double forward = prefix + decode + t.context * (und + attend_image) + t.trained_image * (gen + attend_image);
  const double passes = 3 + (facts.reference ? 1 : 0) + (recipe.policy.recompute ? 1 : 0);
  return {.decode = decode,
          .other_rollout = other,
          .update = passes * forward,
          .probes = (decode + other) / t.samples * probes_a_step(facts),
          .passes = passes};
}

std::string step_table(const Facts& facts) {
  const auto& [recipe, t] = std::tie(facts.recipe, facts.tokens);
  const StepFlops flops = step_flops(facts);
  const monitor::DriftConfig& drift = recipe.monitor.drift;
  const auto samples = static_cast<int64_t>(t.samples);

  std::string text = fmt::format("\na step                                                  {}\n", facts.prompts);
  text += row("prompts x group = samples",
              fmt::format("{} x {} = {}", recipe.grpo.prompts_per_step, recipe.grpo.group_size, samples));
  text += row("and for the drift monitor", monitor::describe(drift, samples));
  text += row("sampled text tokens at most", in_words(t.text));
  text += row("image tokens, once a denoising step", in_words(t.drawn));
  text += row("image tokens that are trained", in_words(t.trained_image));
  text += row("FLOPs of the rollout", in_words(flops.decode + flops.other_rollout));
  text += row(fmt::format("FLOPs of the update ({:.0f} passes)", flops.passes), in_words(flops.update));
  text += row("FLOPs of the drift monitor's samples", in_words(flops.probes));
  const int64_t gpus = facts.machine.num_gpus;
  text += row(gpus > 0 ? "in all, a GPU" : "in all",
              in_words(flops.total() / static_cast<double>(std::max<int64_t>(gpus, 1))));
  return text;
}

/// Micro-batches that run at once (grpo/update.h).
double count_workers(const Recipe& recipe, const policy::ModelSizes& model, const Tokens& tokens) {
  const bool small = recipe.policy.dtype == policy::DtypeChoice::float32 && !recipe.policy.recompute &&
                     std::ranges::all_of(model.shapes, [](const NamedTensor& weight) {
                       return weight.name.starts_with("autoencoder.") || kernels::is_narrow(weight.tensor);
                     });
  if (!small) return 1;
  const double micro_batches = (tokens.prefix + tokens.text + tokens.context + tokens.trained_image) /
                               static_cast<double>(recipe.grpo.micro_batch_tokens);
  return std::min(static_cast<double>(num_threads({.threads = recipe.run.threads})), std::ceil(micro_batches));
}

/// What the backward pass of the largest micro-batch keeps, in bytes.
double activation_bytes(const Facts& facts) {
  const auto& [recipe, t, llm] = std::tie(facts.recipe, facts.tokens, facts.model.llm);
  const double d = static_cast<double>(llm.hidden_size), kv = static_cast<double>(llm.num_kv_heads * llm.head_dim);
  const double inter = static_cast<double>(llm.intermediate_size), layers = static_cast<double>(llm.num_layers);
  // Numbers that a layer keeps a token: its input, norms, q k v before and after rotation, attention, gate, up,
  // products; with LoRA also what a pair hands on within it, and the products once more.
  const double adapters =
      facts.lora ? 7 * static_cast<double>(recipe.policy.lora.rank) + 3 * d + 2 * kv + 2 * inter : 0;
  const double kept = 11 * d + 5 * kv + 4 * inter + adapters;
  const double row = t.row_context + t.trained_image / t.samples;  // of one sample, its prompt among them
  const double prompt = t.prefix / static_cast<double>(recipe.grpo.prompts_per_step);
  const double all = (t.prefix + t.samples * (row - prompt)) / static_cast<double>(recipe.grpo.num_minibatches);
  const double tokens = std::max(std::min(static_cast<double>(recipe.grpo.micro_batch_tokens), all), row);
  const double logits = tokens * (t.text / t.samples) / row * static_cast<double>(llm.vocab_size);
  return facts.bytes() * (tokens * (recipe.policy.recompute ? layers * d + kept : layers * kept) + 2 * logits);
}

/// What decoding the images of a rollout takes at its most, in bytes, and how many it decodes together.
std::pair<double, int64_t> decoding_bytes(const Facts& facts) {
  int64_t side = 0;
  for (const recipe::Task& task : recipe::tasks_of(facts.recipe)) {
    if (has_segment(task.rollout, data::SegmentKind::image)) side = std::max(side, task.rollout.image_size);
  }
  if (side == 0) return {0, 0};
  const auto name = [](const NamedTensor& tensor) { return tensor.name.ends_with("decoder.conv_out.weight"); };
  const auto last = std::ranges::find_if(facts.model.shapes, name);  // [3, width, 3, 3]
  const double width = last == facts.model.shapes.end() ? 0 : static_cast<double>(last->tensor.size(1));
  const auto samples = static_cast<int64_t>(facts.tokens.samples);
  const int64_t together =
      std::min(samples, rollout::images_decoded_together(static_cast<int64_t>(facts.tokens.block) - 2));
  const double pixels = static_cast<double>(side * side);
  return {static_cast<double>(together) * pixels * width * kDecodedMaps * 4, together};
}

/// Tokens whose keys and values the rollout's cache holds: its pool doubles.
double cached_tokens(const Facts& facts) {
  const Tokens& t = facts.tokens;
  constexpr double kBlock = policy::KvCache::kBlockTokens;
  const double prompt = t.prefix / static_cast<double>(facts.recipe.grpo.prompts_per_step);
  const double own = std::ceil((t.row_context - prompt) / kBlock) * kBlock;
  const double all = std::min(static_cast<double>(facts.recipe.rollout.token_budget), t.prefix + t.samples * own);
  const double needed = std::max(all, t.row_context + t.block);
  double pool = 1024;
  while (pool < needed) pool *= 2;
  return pool;
}

/// Memory of a rank. What a sharded run divides comes first.
std::string memory_table(const Facts& facts) {
  const auto& [recipe, count, llm] = std::tie(facts.recipe, facts.count, facts.model.llm);
  const Machine& machine = facts.machine;
  const double trained = count.total_trained();
  const double copies = facts.reference && !facts.lora ? 2 : 1;  // of the model: the policy's, and the reference's
  const double gradients = trained * 4.0 * (facts.workers > 1 ? 1 + facts.workers : 1),
               activations = facts.workers * activation_bytes(facts);
  const auto [decoding, images] = decoding_bytes(facts);

  const bool gpus = machine.num_gpus > 0;
  std::string text = gpus ? fmt::format("\nmemory of a rank, GiB                                  whole {:>20}\n",
                                        fmt::format("sharded over {}", machine.num_gpus))
                          : "\nmemory, GiB\n";
  const auto line = [&](const std::string& what, double size, double share) {
    text += fmt::format("  {:<40} {:>16.3f}", what, size / kGiB);
    text += gpus ? fmt::format(" {:>20.3f}\n", share / kGiB) : "\n";
  };
  double whole = 0, sharded = 0;
  const auto memory = [&](const std::string& what, double size, bool divides) {
    if (size == 0) return;
    const double share = divides && gpus ? size / static_cast<double>(machine.num_gpus) : size;
    whole += size;
    sharded += share;
    line(what, size, share);
  };
  memory(fmt::format("weights ({})", facts.bf16 ? "bf16" : "float32"),
         count.total(false) * facts.bytes() + count.adapters * facts.bytes(), true);
  memory("frozen copy for the penalty", facts.reference && !facts.lora ? count.total(false) * facts.bytes() : 0, true);
  memory("gradients (float32)", gradients, true);
  memory(facts.bf16 ? "optimizer, float32 masters" : "optimizer", trained * (8.0 + (facts.bf16 ? 4.0 : 0.0)), true);
  memory("weights and optimizer before a step",
         recipe.grpo.num_minibatches > 1 ? trained * (8.0 + facts.bytes() + (facts.bf16 ? 4.0 : 0.0)) : 0, true);
  const double ema = recipe.optim.ema.enabled ? trained * 4.0 : 0;
  memory("EMA", ema, true);
  const double saved = trained * (facts.bytes() + 8.0 + (facts.bf16 ? 4.0 : 0.0)) + ema;
  memory("copy that a checkpoint is written from", recipe.checkpoint.async && !gpus ? saved : 0, true);
  memory("autoencoder (float32)", count.all[kAutoencoder] * 4.0 * copies, false);
  memory(
      "key/value cache",
      cached_tokens(facts) * static_cast<double>(2 * llm.num_layers * llm.num_kv_heads * llm.head_dim) * facts.bytes(),
      false);
  if (decoding > gradients + activations) {  // the two are free while images are decoded
    memory(fmt::format("decoding {} images, beyond gradients", images), decoding - gradients, false);
  } else {
    memory(fmt::format("activations{}", recipe.policy.recompute ? ", recomputed" : ""), activations, false);
  }
  memory("LibTorch, once it has run", gpus ? 0 : kLibTorchMiB * 1024 * 1024, false);
  memory("reserve", gpus ? kReserve * kGiB : 0, false);
  line("in all", whole, sharded);
  const auto verdict = [&](const char* how, double size, double gib) {
    const double room = gib - size / kGiB;
    text += fmt::format("{}: {} {:.1f} GiB of {:.0f}\n", how, room >= 0 ? "fits, leaving" : "does NOT fit, short of",
                        std::abs(room), gib);
  };
  if (!gpus) {
    const double here = static_cast<double>(memory_of_machine()) / kGiB;
    verdict("this machine's memory", whole, machine.memory_gib > 0 ? machine.memory_gib : here);
    return text;
  }
  verdict("each rank with whole weights", whole, machine.gpu_gib);
  if (machine.num_gpus > 1) {
    verdict("weights and optimizer sharded", sharded, machine.gpu_gib);
    // A sum's shares are exchanged, and come back summed (parallel/comm.h).
    const auto ranks = static_cast<double>(machine.num_gpus);
    const double sums = 2 * (ranks - 1) / ranks * trained * 4.0 * static_cast<double>(recipe.grpo.num_minibatches);
    text += fmt::format("each rank sends {:.2f} GiB a step: gradients (float32), {} time{}\n", sums / kGiB,
                        recipe.grpo.num_minibatches, recipe.grpo.num_minibatches == 1 ? "" : "s");
  }
  return text;
}

/// The time of a step on this machine, where it is to be told and can be.
std::string time_line(const Facts& facts) {
  if (facts.machine.num_gpus > 0 || !facts.machine.measure) return {};
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
  const auto [step, prompts] = step_tokens(recipe, model);
  const Facts facts{.recipe = recipe,
                    .machine = machine,
                    .model = model,
                    .count = count_parameters(recipe, model),
                    .tokens = step,
                    .prompts = prompts,
                    .lora = recipe.policy.train == policy::TrainMode::lora,
                    .bf16 = recipe.policy.dtype == policy::DtypeChoice::bfloat16,
                    .reference = grpo::needs_reference(recipe.grpo),
                    .workers = count_workers(recipe, model, step)};
  return fmt::format("dry run: {} ({})\n", recipe.run.name, check_headers(folder, model)) + parameters_table(facts) +
         step_table(facts) + memory_table(facts) + time_line(facts);
}

}  // namespace unigrpo::train

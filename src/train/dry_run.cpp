#include "train/dry_run.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "data/prompt_file.h"
#include "flow/time_grid.h"
#include "grpo/update.h"
#include "io/model_folder.h"
#include "policy/load.h"
#include "policy/qwen2.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
using recipe::Recipe;

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
constexpr int64_t kPromptTokens = 64;  // where the prompt file is not here
constexpr double kBytesPerToken = 4;   // of English text, for prompts
constexpr double kReserve = 4;         // GiB that CUDA, NCCL, kernels' workspaces and fragmentation take

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
  int64_t matched = 0;
  for (const NamedTensor& tensor : sizes.shapes) {
    const Part part = part_of(sizes.llm, tensor.name);
    const auto elements = static_cast<double>(tensor.tensor.numel());
    count.all[part] += elements;
    if (lora) {
      const bool linear = tensor.name.starts_with(sizes.llm.prefix + "model.layers.") && tensor.tensor.dim() == 2;
      if (!linear || !matches_any(policy.lora.targets, tensor.name)) continue;
      ++matched;
      count.adapters += static_cast<double>(policy.lora.rank * (tensor.tensor.size(0) + tensor.tensor.size(1)));
    } else if (part != kAutoencoder && !matches_any(policy.freeze, tensor.name)) {
      count.trained[part] += elements;
    }
  }
  if (lora && matched == 0) {
    throw BadInput("policy.lora.targets: no weight of the model matches [{}]", join(policy.lora.targets, ", "));
  }
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
  const auto weights = policy::find_weights(folder, sizes.family);
  if (!weights) return "no weights in the folder: sizes are the config's";
  check(io::Checkpoint::open(*weights), "");
  if (sizes.bagel && fs::exists(folder / "ae.safetensors"))
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

/// Sides, in tokens, of a picture that is drawn and of one that the vision tower reads; 0 where the model has no
/// pictures.
struct Sides {
  double drawn = 0, seen = 0;
};

Sides sides_of(const Recipe& recipe, const policy::ModelSizes& sizes) {
  if (!sizes.bagel) {
    if (std::ranges::count(recipe.rollout.program, "image") > 0) policy::refuse_images(recipe.policy.model);
    return {};
  }
  const auto pixels = static_cast<double>(recipe.rollout.image_size);
  return {.drawn = pixels / static_cast<double>(sizes.bagel->pixels_per_token()),
          .seen = std::min(pixels, static_cast<double>(sizes.bagel->vision_rule().max_size)) /
                  static_cast<double>(sizes.bagel->vit.patch_size)};
}

Tokens count_tokens(const Recipe& recipe, const Sides& sides, double prompt_tokens) {
  const auto& rollout = recipe.rollout;
  const auto& program = rollout.program;
  const double texts = static_cast<double>(std::ranges::count(program, "text"));
  const double images = static_cast<double>(std::ranges::count(program, "image"));
  const double read = images - (program.back() == "image" ? 1 : 0);
  const int64_t stochastic = flow::num_stochastic_steps(rollout.sde.kind, rollout.num_steps);
  const double trained = static_cast<double>(
      rollout.window.mode == flow::WindowMode::all ? stochastic : std::min(rollout.window.width, stochastic));
  Tokens t;
  t.samples = static_cast<double>(recipe.grpo.prompts_per_step * recipe.grpo.group_size);
  t.block = sides.drawn * sides.drawn + 2;
  t.prefix = static_cast<double>(recipe.grpo.prompts_per_step) * prompt_tokens;
  t.text = t.samples * texts * static_cast<double>(rollout.max_tokens + 1);
  t.drawn = t.samples * images * static_cast<double>(rollout.num_steps) * t.block;
  t.context = t.samples * read * (t.block + sides.seen * sides.seen + 2);
  t.trained_image = t.samples * images * trained * t.block;
  t.row_context = prompt_tokens + texts * static_cast<double>(rollout.max_tokens + 2) + t.context / t.samples;
  return t;
}

}  // namespace

std::string dry_run(const Recipe& recipe, const Machine& machine) {
  const fs::path folder = recipe.policy.model;
  const policy::ModelSizes model = policy::read_sizes(folder);
  const Parameters count = count_parameters(recipe, model);
  const Sides sides = sides_of(recipe, model);
  const bool lora = recipe.policy.train == policy::TrainMode::lora;
  const bool bf16 = recipe.policy.dtype == policy::DtypeChoice::bfloat16;
  const double bytes = bf16 ? 2 : 4;

  std::string text = fmt::format("dry run: {} ({})\n", recipe.run.name, check_headers(folder, model));
  auto line = [&](const std::string& what, const std::string& value) {
    text += fmt::format("  {:<40} {:>20}\n", what, value);
  };

  text += "\nparameters                                              all              trained\n";
  for (int part = 0; part < kNumParts; ++part) {
    text += fmt::format("  {:<40} {:>16} {:>20}\n", kPartNames[part], in_words(count.all[part]),
                        in_words(count.trained[part]));
  }
  if (lora)
    text += fmt::format("  {:<40} {:>16} {:>20}\n", "adapters", in_words(count.adapters), in_words(count.adapters));
  text += fmt::format("  {:<40} {:>16} {:>20}\n", "in all", in_words(count.total(true) + count.adapters),
                      in_words(count.total_trained()));

  double prompt_tokens = kPromptTokens;
  std::string prompts = fmt::format("{} is not here: {} tokens a prompt assumed", recipe.data.prompts, kPromptTokens);
  if (fs::exists(recipe.data.prompts)) {
    double characters = 0;
    const auto rows = data::read_prompt_file(recipe.data.prompts);
    for (const auto& prompt : rows) characters += static_cast<double>(prompt.text.size());
    prompt_tokens = characters / static_cast<double>(rows.size()) / kBytesPerToken + 2;
    prompts = fmt::format("{} prompts of about {:.0f} tokens", rows.size(), prompt_tokens);
  }
  prompt_tokens += static_cast<double>(recipe.rollout.system_prompt.size()) / kBytesPerToken;
  const Tokens t = count_tokens(recipe, sides, prompt_tokens);

  // Forward FLOPs of a token: two a weight it passes.
  const double und = 2 * count.all[kUnderstanding], gen = 2 * count.all[kGeneration];
  const double head = 2.0 * static_cast<double>(model.llm.vocab_size * model.llm.hidden_size);
  const auto& llm = model.llm;
  const double pair = 4.0 * static_cast<double>(llm.num_layers * llm.num_heads * llm.head_dim);  // a query and a key
  const double attend_text = pair * t.row_context / 2, attend_image = pair * (t.row_context + t.block);
  const double rollout_flops = t.prefix * (und + attend_text) + t.text * (und + head + attend_text) +
                               t.context * (und + attend_image) + t.drawn * (gen + attend_image);
  const double forward = t.prefix * (und + attend_text) + t.text * (und + head + attend_text) +
                         t.context * (und + attend_image) + t.trained_image * (gen + attend_image);
  const bool reference = grpo::needs_reference(recipe.grpo);
  const double passes = 3 + (reference ? 1 : 0) + (recipe.policy.recompute ? 1 : 0);

  text += fmt::format("\na step                                                  {}\n", prompts);
  line("prompts x group = samples", fmt::format("{} x {} = {}", recipe.grpo.prompts_per_step, recipe.grpo.group_size,
                                                static_cast<int64_t>(t.samples)));
  const double looks = recipe.monitor.alarms.samples_a_step(), looks_flops = rollout_flops / t.samples * looks;
  line("and for the alarms", in_words(looks));
  line("sampled text tokens at most", in_words(t.text));
  line("image tokens, once a denoising step", in_words(t.drawn));
  line("image tokens that are trained", in_words(t.trained_image));
  line("FLOPs of the rollout", in_words(rollout_flops));
  line(fmt::format("FLOPs of the update ({:.0f} passes)", passes), in_words(passes * forward));
  line("FLOPs of the alarms' samples", in_words(looks_flops));
  line("in all, a GPU",
       in_words((rollout_flops + looks_flops + passes * forward) / static_cast<double>(machine.num_gpus)));

  // Memory of a rank. What a sharded run divides comes first.
  const double weights = count.total(false) * bytes + count.adapters * bytes;
  const double frozen_copy = reference && !lora ? count.total(false) * bytes : 0;
  const double gradients = count.total_trained() * bytes;
  const double optimizer = count.total_trained() * (8.0 + (bf16 ? 4.0 : 0.0));
  const double ema = recipe.optim.ema.enabled ? count.total_trained() * 4.0 : 0;
  const double autoencoder = count.all[kAutoencoder] * 4.0;
  const double held = std::max(static_cast<double>(recipe.rollout.token_budget), t.row_context + t.block);
  const double cache = held * static_cast<double>(2 * llm.num_layers * llm.num_kv_heads * llm.head_dim) * bytes;
  const double d = static_cast<double>(llm.hidden_size), kv = static_cast<double>(llm.num_kv_heads * llm.head_dim);
  const double inter = static_cast<double>(llm.intermediate_size), layers = static_cast<double>(llm.num_layers);
  const double kept =
      8 * d + 4 * kv + 4 * inter;  // numbers that a layer keeps a token: norms, q k v, attention, gate, up, products
  const double most_tokens =
      std::max(static_cast<double>(recipe.grpo.micro_batch_tokens), t.row_context + t.trained_image / t.samples);
  const double activations = most_tokens * bytes * (recipe.policy.recompute ? layers * d + kept : layers * kept) +
                             t.text / t.samples * static_cast<double>(llm.vocab_size) * 4 * 2;

  const double n = static_cast<double>(machine.num_gpus);
  text += fmt::format("\nmemory of a rank, GiB                                  whole {:>20}\n",
                      fmt::format("sharded over {}", machine.num_gpus));
  double whole = 0, sharded = 0;
  auto memory = [&](const std::string& what, double size, bool divides) {
    if (size == 0) return;
    whole += size;
    sharded += divides ? size / n : size;
    text += fmt::format("  {:<40} {:>16.2f} {:>20.2f}\n", what, size / kGiB, (divides ? size / n : size) / kGiB);
  };
  memory(fmt::format("weights ({})", bf16 ? "bf16" : "float32"), weights, true);
  memory("frozen copy for the penalty", frozen_copy, true);
  memory("gradients", gradients, true);
  memory(bf16 ? "optimizer, float32 masters" : "optimizer", optimizer, true);
  memory("EMA", ema, true);
  memory("autoencoder (float32)", autoencoder, false);
  memory("key/value cache", cache, false);
  memory(fmt::format("activations{}", recipe.policy.recompute ? ", recomputed" : ""), activations, false);
  memory("reserve", kReserve * kGiB, false);
  text += fmt::format("  {:<40} {:>16.2f} {:>20.2f}\n", "in all", whole / kGiB, sharded / kGiB);
  auto verdict = [&](const char* how, double size) {
    const double room = machine.gpu_gib - size / kGiB;
    text += fmt::format("{}: {} {:.1f} GiB of {:.0f}\n", how, room >= 0 ? "fits, leaving" : "does NOT fit, short of",
                        std::abs(room), machine.gpu_gib);
  };
  verdict("each rank with whole weights", whole);
  if (machine.num_gpus > 1) {
    verdict("weights and optimizer sharded", sharded);
    text += "(this version trains in one process: the figures for more GPUs are plans)\n";
  }
  return text;
}

}  // namespace unigrpo::train

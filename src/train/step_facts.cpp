#include "train/step_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <tuple>
#include <utility>
#include <vector>

#include "base/text.h"
#include "grpo/update.h"
#include "monitor/drift_monitor.h"
#include "policy/patterns.h"
#include "policy/qwen2/qwen2.h"
#include "recipe/tasks.h"
#include "rollout/rules.h"
#include "train/task_run.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
using recipe::Recipe;

constexpr int64_t kPromptTokens = 64;  // where the prompt file is not here
constexpr double kBytesPerToken = 4;   // of English text, for prompts

Part part_of(const policy::MotConfig& llm, const std::string& name) {
  if (name.starts_with("autoencoder.")) return kAutoencoder;
  if (name.starts_with("vit_model.") || name.starts_with("connector.") || name.starts_with("vit_pos_embed."))
    return kVision;
  if (!name.starts_with(llm.prefix)) return kLatents;
  if (name.find("embed_tokens") != std::string::npos || name.find("lm_head") != std::string::npos) return kEmbeddings;
  return name.find("_moe_gen") != std::string::npos ? kGeneration : kUnderstanding;
}

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
      if (!linear || !policy::matches_any(policy.lora.targets, tensor.name)) continue;
      count.adapters += static_cast<double>(policy.lora.rank * (tensor.tensor.size(0) + tensor.tensor.size(1)));
    } else if (part != kAutoencoder && !policy::matches_any(policy.freeze, tensor.name)) {
      count.trained[part] += elements;
    }
  }
  if (lora) policy::check_targets(policy, linears);
  policy::check_freeze(policy, parameters);
  return count;
}

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
StepTokens count_tokens(const Recipe& recipe, const recipe::Task& task, rollout::ImageTokens image, double prompts,
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
StepTokens operator+(const StepTokens& a, const StepTokens& b) {
  return {.samples = a.samples + b.samples,
          .prefix = a.prefix + b.prefix,
          .text = a.text + b.text,
          .drawn = a.drawn + b.drawn,
          .context = a.context + b.context,
          .trained_image = a.trained_image + b.trained_image,
          .row_context = std::max(a.row_context, b.row_context),
          .block = std::max(a.block, b.block)};
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
std::pair<StepTokens, std::string> step_tokens(const Recipe& recipe, const policy::ModelSizes& model) {
  const std::vector<recipe::Task> tasks = recipe::tasks_of(recipe);
  const std::vector<int64_t> counts = recipe::prompts_of(tasks, recipe.grpo.prompts_per_step, 0);
  StepTokens step;
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

}  // namespace

double Parameters::total(bool with_autoencoder) const {
  double sum = 0;
  for (int part = 0; part < kNumParts; ++part) sum += part == kAutoencoder && !with_autoencoder ? 0 : all[part];
  return sum;
}

double Parameters::total_trained() const {
  double sum = adapters;
  for (const double number : trained) sum += number;
  return sum;
}

StepFacts step_facts(const Recipe& recipe, const policy::ModelSizes& model) {
  auto [tokens, prompts] = step_tokens(recipe, model);
  return {.recipe = recipe,
          .model = model,
          .count = count_parameters(recipe, model),
          .tokens = tokens,
          .prompts = std::move(prompts),
          .lora = recipe.policy.train == policy::TrainMode::lora,
          .bf16 = recipe.policy.dtype == policy::DtypeChoice::bfloat16,
          .reference = grpo::needs_reference(recipe.grpo, recipe.rollout)};
}

double probes_a_step(const StepFacts& facts) {
  const monitor::DriftConfig& drift = facts.recipe.monitor.drift;
  return drift.enabled ? monitor::plan_probes(drift, static_cast<int64_t>(facts.tokens.samples)).samples_a_step() : 0;
}

StepFlops step_flops(const StepFacts& facts) {
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

}  // namespace unigrpo::train

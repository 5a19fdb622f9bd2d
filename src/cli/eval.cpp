#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/load_model.h"
#include "io/atomic_file.h"
#include "monitor/samples_file.h"
#include "train/evaluator.h"

namespace unigrpo::cli {
namespace {

struct Options {
  std::string model, prompts, reward = "geneval", json, out, adapter;
  std::vector<std::string> program;
  std::optional<int64_t> num_steps;
  std::optional<double> guidance, image_guidance;
  std::string dtype = "float32";
  uint64_t seed = 0;
  int64_t num_samples = 1, max_prompts = 0;
  bool true_plan = false;
};

int run_eval(const Options& options) {
  const auto kind = enum_value<reward::RewardKind>(options.reward);
  if (!kind) throw BadInput("--reward: expected {}, got '{}'", enum_choices<reward::RewardKind>(), options.reward);
  train::EvalOptions eval{.model = options.model,
                          .prompts = options.prompts,
                          .reward = *kind,
                          .generation = train::read_generation_config(options.model),
                          .seed = options.seed,
                          .num_samples = options.num_samples,
                          .max_prompts = options.max_prompts,
                          .true_plan = options.true_plan,
                          .keep_samples = options.out.empty() ? 0 : -1};
  if (!options.program.empty()) eval.generation.program = options.program;
  if (options.num_steps) eval.generation.num_steps = *options.num_steps;
  if (options.guidance) eval.generation.guidance.text_scale = *options.guidance;
  if (options.image_guidance) eval.generation.guidance.image_scale = *options.image_guidance;
  const auto model = load_model(options.model, options.adapter, options.dtype);
  const train::EvalResult result = train::evaluate(*model, eval);
  std::fputs(train::to_table(result).c_str(), stdout);
  if (!options.json.empty()) io::write_file_atomic(options.json, train::to_json(eval, result));
  if (!options.out.empty()) monitor::write_samples(options.out, result.samples);
  return 0;
}

}  // namespace

Run declare_eval(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("--model", options->model, "Model folder in the official BAGEL or Qwen2.5 layout")->required();
  app.add_option("--prompts", options->prompts, "Prompt file (JSONL, GenEval's schema)")->required();
  app.add_option("--reward", options->reward, "What scores the images")->capture_default_str();
  app.add_option("--json", options->json, "Write the result here");
  app.add_option("--out", options->out, "Folder for all images and samples.jsonl");
  app.add_option("--dtype", options->dtype, "Of the weights: float32 (default) or bfloat16");
  app.add_option("--adapter", options->adapter, "PEFT adapter folder on top of the model");
  app.add_option("--program", options->program, "Segments of an answer, as text,image (default: the model's own)")
      ->delimiter(',')
      ->check(CLI::IsMember({"text", "image"}));
  app.add_option("--steps", options->num_steps, "Denoising steps (default: the model's generation_config.json)")
      ->check(CLI::Range(int64_t{1}, int64_t{10000}));
  app.add_option("--guidance", options->guidance, "Text guidance; 1 = none")->check(CLI::Range(1.0, 100.0));
  app.add_option("--image-guidance", options->image_guidance, "Guidance by the prompt's pictures, beside --guidance; 1 = none")
      ->check(CLI::Range(1.0, 100.0));
  app.add_option("--seed", options->seed, "Of all noise (default 0)");
  app.add_option("--num-samples", options->num_samples, "Images a prompt")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{10000}));
  app.add_option("--max-prompts", options->max_prompts, "Prompts at most, spread over the file; 0 = all")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1000000}));
  app.add_flag("--true-plan", options->true_plan, "Embedded world: give the right plan instead of the model's own");
  return [options] { return run_eval(*options); };
}

}  // namespace unigrpo::cli

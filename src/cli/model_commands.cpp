#include "cli/model_commands.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "planner/selftest.h"

namespace unigrpo::cli {
namespace {

template <typename Options>
Run run_with(const std::shared_ptr<Options>& options) {
  return [options] { return run(*options); };
}

void add_device_option(CLI::App& app, std::string& device) {
  app.add_option("--device", device, "What holds the weights and does the arithmetic: cpu (default), cuda or cuda:N");
}

void add_model_options(CLI::App& app, ModelOptions& options) {
  app.add_option("--model", options.model, "Model folder in the official BAGEL, Qwen2.5 or LTX-2 layout")->required();
  app.add_option("--adapter", options.adapter, "PEFT adapter folder on top of the model");
  app.add_option("--dtype", options.dtype, "Of the weights: float32 (default) or bfloat16");
  add_device_option(app, options.device);
  app.add_option("--episode", options.episode, "Segments of an answer, as text,image (default: the model's own)")
      ->delimiter(',')
      ->check(CLI::IsMember({"text", "image", "av"}));
  // What is not given is as the model folder's generation_config.json says.
  app.add_option("--image-size", options.image_size, "Side of a generated image, pixels")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}));
  app.add_option("--steps,--num-steps", options.num_steps,
                 "Denoising steps (default of this and the next: the model's generation_config.json)")
      ->check(CLI::Range(int64_t{1}, int64_t{10000}));
  app.add_option("--timestep-shift", options.timestep_shift, "Of the time grid; 1 = even steps")
      ->check(CLI::PositiveNumber);
  app.add_option("--max-tokens", options.max_tokens, "Of a text, the end token included")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}));
  app.add_option("--temperature", options.temperature, "Of text sampling; 0 = the likeliest token")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--top-k", options.top_k, "Draw from so many likeliest tokens; 0 = from all")
      ->check(CLI::Range(int64_t{0}, int64_t{1000000}));
  app.add_option("--top-p", options.top_p, "Of these from the likeliest that together pass this probability; 1 = all")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--min-p", options.min_p, "Of these from those at least so likely, against the likeliest; 0 = all")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--cfg-scale", options.cfg_scale, "Text guidance; 1 = none")->check(CLI::Range(1.0, 100.0));
  app.add_option("--cfg-image-scale", options.cfg_image_scale,
                 "Guidance by the prompt's images, beside --cfg-scale; 1 = none")
      ->check(CLI::Range(1.0, 100.0));
  app.add_option("--cfg-renorm-type", options.cfg_renorm_type, "Renormalisation of guided velocities")
      ->check(CLI::IsMember({"global", "channel", "text_channel"}));
  app.add_option("--cfg-renorm-min", options.cfg_renorm_min, "Its least factor; 1 = none")->check(CLI::Range(0.0, 1.0));
  app.add_option("--cfg-interval", options.cfg_interval, "Times at which guidance acts: LOW,HIGH")
      ->delimiter(',')
      ->expected(2)
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--text-features", options.text_features,
                 "LTX-2: a .safetensors file with text features, a tensor named by each prompt");
  app.add_option("--text-length", options.text_length, "LTX-2: that they are padded to; 0 = as long as they are")
      ->check(CLI::Range(int64_t{0}, int64_t{65536}));
  app.add_option("--system-prompt", options.system_prompt, "Text before every prompt; \"\" = none");
}

Run declare_train(CLI::App& app) {
  const auto options = std::make_shared<TrainOptions>();
  app.add_option("recipe", options->path, "Recipe file (TOML)")->required();
  app.add_flag("--resume", options->resume, "Go on from the newest checkpoint of the run folder");
  auto* dry_run =
      app.add_flag("--dry-run", options->dry_run,
                   "Print what a step costs, what fits in this machine's memory, and a step's time from a short trial");
  app.add_option("--gpus", options->num_gpus, "With --dry-run: plan for so many GPUs instead of this machine")
      ->needs(dry_run)
      ->check(CLI::Range(int64_t{1}, int64_t{100000}));
  app.add_option("--gpu-memory", options->gpu_gib, "With --dry-run: GiB of each GPU (default 80)")
      ->needs(dry_run)
      ->check(CLI::Range(1.0, 10000.0));
  add_overrides(app, options->overrides);
  return run_with(options);
}

Run declare_sft(CLI::App& app) {
  const auto options = std::make_shared<SftOptions>();
  app.add_option("recipe", options->path, "Recipe file (TOML) with an [sft] table")->required();
  app.add_flag("--resume", options->resume, "Go on from the newest checkpoint of the run folder");
  add_overrides(app, options->overrides);
  return run_with(options);
}

Run declare_sample(CLI::App& app) {
  const auto options = std::make_shared<SampleOptions>();
  add_model_options(app, options->model);
  app.add_option("--prompt", options->prompt, "What to generate, to change or to answer")->required();
  app.add_option("--image", options->images, "Image that the prompt is about; may be given again")
      ->allow_extra_args(false);
  app.add_option("--out", options->out, "Folder for the PNGs or clips and samples.jsonl")->required();
  app.add_option("--seed", options->seed, "Of all noise (default 0)");
  app.add_option("--count", options->count, "Samples (default 1)")->check(CLI::Range(int64_t{1}, int64_t{10000}));
  return run_with(options);
}

Run declare_eval(CLI::App& app) {
  const auto options = std::make_shared<EvalOptions>();
  add_model_options(app, options->model);
  app.add_option("--prompts", options->prompts, "Prompt file (JSONL; default: eval.prompts of --recipe)");
  auto* reward = app.add_option("--reward", options->reward,
                                "Kind of reward (default: by what the rows hold: edit, answer, geneval or ocr)");
  auto* recipe =
      app.add_option("--recipe", options->recipe,
                     "Its [[eval.rewards]], or else its [[rewards]], whatever their kind; the first one counts")
          ->excludes(reward);
  app.add_option("--set", options->overrides, "Override a key of --recipe: --set eval.rewards.0.http.url=...")
      ->needs(recipe)
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  app.add_option("--json", options->json, "Write the result here");
  app.add_option("--out", options->out, "Folder for all images and samples.jsonl");
  app.add_option("--seed", options->seed, "Of all noise (default 0)");
  app.add_option("--num-samples", options->num_samples, "Images a prompt")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1}, int64_t{10000}));
  app.add_option("--max-prompts", options->max_prompts, "Prompts at most, spread over the file; 0 = all")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{1000000}));
  app.add_flag("--oracle-plan", options->oracle_plan, "Embedded world: give the right plan instead of the model's own");
  return run_with(options);
}

Run declare_export(CLI::App& app) {
  const auto options = std::make_shared<ExportOptions>();
  app.add_option("--run", options->run, "Run folder")->required();
  app.add_option("--out", options->out, "Folder to write")->required();
  app.add_option(
         "--to", options->to,
         "peft: the adapter alone; bagel, qwen2: the whole model, LoRA merged, in its family's layout (default)")
      ->check(CLI::IsMember({"bagel", "qwen2", "peft"}));
  app.add_option("--step", options->step, "Checkpoint (default: the newest)");
  app.add_option("--base-name", options->base_name,
                 "With --to peft: what the adapter calls its base (default: the model folder's absolute path)");
  app.add_option("--dtype", options->dtype, "Of the weights written")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--max-shard-size", options->shard_bytes,
                 "A whole model over this size comes in shards: 5GB (default: one file)")
      ->transform(CLI::AsSizeValue(true));
  app.add_flag("--raw", options->raw, "The last weights instead of their running average (EMA)");
  return run_with(options);
}

Run declare_init(CLI::App& app) {
  const auto options = std::make_shared<InitOptions>();
  app.add_option("--configs", options->configs, "Folder with the config files and a tokenizer, without weights")
      ->required();
  app.add_option("--out", options->out, "Model folder to write")->required();
  app.add_flag("--float32", options->float32, "Instead of bf16");
  app.add_option("--seed", options->seed, "Of the weights (default 0)");
  return run_with(options);
}

Run declare_selftest(CLI::App& app) {
  const auto options = std::make_shared<SelftestOptions>();
  auto* source = app.add_option_group("source", "What to compare with");
  source->add_option("--vectors", options->vectors, "File of numeric cases (tests/data/README.md tells the format)");
  source->add_option("--bagel", options->bagel,
                     "BAGEL folder with golden.json and golden.safetensors of the official code");
  auto* ltx2 = source->add_option("--ltx2", options->ltx2,
                                  "LTX-2 folder with golden.json and golden.safetensors of the official code");
  source->add_option("--planner", options->planner, "File of planner cases (docs/PLANNING.md tells the format)");
  source->require_option(1);
  add_device_option(app, options->device);
  app.add_option("--answers", options->answers, "With --planner: write the answers here");
  app.add_option("--out", options->out, "With --ltx2: write the model folder here again, as an export does")
      ->needs(ltx2);
  return [options] {  // plans need no LibTorch
    return options->planner.empty() ? run(*options)
                                    : planner::run_selftest(options->planner, options->answers, std::cout);
  };
}

}  // namespace

const std::vector<Command> kModelCommands = {
    {"train", "Train a model by a recipe", &declare_train},
    {"sft", "Warm start: train the autoencoder, or text and images together", &declare_sft},
    {"sample", "Answer a prompt with text and images", &declare_sample},
    {"eval", "Score a model on a prompt file", &declare_eval},
    {"export", "Write a run's weights as a model folder or a PEFT adapter", &declare_export},
    {"init", "Write a model folder of fresh random weights for config files", &declare_init},
    {"selftest", "Check the algorithm's numbers against a file of cases", &declare_selftest},
};

}  // namespace unigrpo::cli

// The phases of a step on one device, beside what the device can do.
//
//   build-cuda/bin/bench_device MODEL [--device cuda] [--dtype bfloat16] [--image-size 512] [--steps 15]
//
// Limits are measured in the same run. Every step is waited for; the median counts.
#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "flow/ode_step.h"
#include "flow/time_grid.h"
#include "grpo/update.h"
#include "policy/load.h"
#include "prompts.h"
#include "rollout/engine.h"
#include "rollout/text_decoder.h"
#include "runtime/runtime.h"
#include "tensor/rng.h"

namespace {

using namespace unigrpo;
using Clock = std::chrono::steady_clock;

constexpr int64_t kTextRows = 64, kImageRows = 4;

struct Options {
  std::string model, device = "cuda", dtype = "bfloat16";
  int64_t image_size = 512;
  int steps = 15;
};

struct Bench {
  Options options;
  Runtime runtime;
  std::unique_ptr<policy::UnifiedPolicy> policy;

  void wait() const {
    if (runtime.device.is_cpu()) return;
    c10::impl::VirtualGuardImpl(runtime.device.type()).synchronizeDevice(runtime.device.index());
  }
  /// Seconds of each of `count` runs, after one that is not counted.
  std::vector<double> timed(int count, const std::function<void()>& step) const {
    std::vector<double> seconds;
    for (int i = 0; i <= count; ++i) {
      wait();
      const auto start = Clock::now();
      step();
      wait();
      if (i > 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    std::ranges::sort(seconds);
    return seconds;
  }
};

struct Limits {
  double bytes_s = 0, flop_s = 0;
};

Limits measure_limits(const Bench& bench, at::ScalarType dtype) {
  const auto options = at::TensorOptions(dtype).device(bench.runtime.device);
  const int64_t side = bench.runtime.device.is_cpu() ? 1024 : 8192;
  const at::Tensor from = at::zeros({side * side * 4}, options.dtype(at::kByte)), to = at::empty_like(from);
  const at::Tensor a = at::full({side, side}, 0.01, options), b = at::full({side, side}, 0.01, options);
  auto median = [](const std::vector<double>& seconds) { return seconds[seconds.size() / 2]; };
  const auto edge = static_cast<double>(side);
  return {.bytes_s = 2.0 * static_cast<double>(from.nbytes()) / median(bench.timed(5, [&] { to.copy_(from); })),
          .flop_s = 2.0 * edge * edge * edge / median(bench.timed(5, [&] { at::mm(a, b); }))};
}

/// What the expert's weights of the language model weigh: bytes, and multiplications a token.
struct Weights {
  double bytes = 0, numbers = 0;
};

Weights weights_of(const policy::UnifiedPolicy& policy, bool drawing) {
  Weights sum;
  for (const NamedTensor& weight : policy.parameters()) {
    const bool layer = weight.name.find("model.layers.") != std::string::npos && !weight.name.starts_with("vit_");
    const bool expert = (weight.name.find("_moe_gen") != std::string::npos) == drawing;
    const bool head = !drawing && weight.name.find("lm_head") != std::string::npos;
    if (!(layer && expert) && !head) continue;
    sum.bytes += static_cast<double>(weight.tensor.nbytes());
    sum.numbers += static_cast<double>(weight.tensor.numel());
  }
  return sum;
}

/// `items` of `unit` a step; `bytes`: that a step must read; `flop`: of its products with weights.
void row(const std::string& phase, const std::vector<double>& seconds, double items, const char* unit, double bytes,
         double flop, const Limits& limits) {
  const double median = seconds[seconds.size() / 2];
  std::printf("%-24s %9.2f %9.2f %10.1f %-9s %8.1f %5.0f%% %8.2f %5.0f%%\n", phase.c_str(), seconds.front() * 1e3,
              median * 1e3, items / median, unit, bytes / median / 1e9, 100 * bytes / median / limits.bytes_s,
              flop / median / 1e12, 100 * flop / median / limits.flop_s);
}

void bench_text(const Bench& bench, const Limits& limits) {
  policy::UnifiedPolicy& policy = *bench.policy;
  std::vector<policy::Context> contexts = bench::read_prompts(policy, kTextRows);
  auto opened = [&](size_t i) {
    return rollout::TextRow(&contexts[i], {.sample = i, .purpose = Purpose::text_sampling}, int64_t{1} << 20);
  };
  std::vector<rollout::TextRow> texts;
  for (size_t i = 0; i < contexts.size(); ++i) texts.push_back(opened(i));
  const auto seconds = bench.timed(bench.options.steps, [&] {
    std::vector<rollout::TextRow*> rows;
    for (size_t i = 0; i < texts.size(); ++i) {
      if (texts[i].finished) texts[i] = opened(i);  // the batch stays whole
      rows.push_back(&texts[i]);
    }
    rollout::decode_step(policy, rows, 1.0);
  });
  const Weights read = weights_of(policy, /*drawing=*/false);
  row("decode, 64 rows", seconds, kTextRows, "tokens/s", read.bytes, 2 * read.numbers * kTextRows, limits);
  for (policy::Context& context : contexts) policy.release(context);
}

void bench_images(const Bench& bench, const Limits& limits) {
  policy::UnifiedPolicy& policy = *bench.policy;
  std::vector<policy::Context> contexts = bench::read_prompts(policy, kImageRows);
  std::vector<const policy::Context*> rows;
  for (const policy::Context& context : contexts) rows.push_back(&context);
  const policy::LatentGrid grid = policy.grid_for(bench.options.image_size);
  at::Tensor x = tensor::normal({kImageRows, grid.num_tokens(), policy.latent_channels()},
                                {.purpose = Purpose::initial_noise}, bench.runtime.device);
  {
    const auto denoiser = policy.denoise(rows, grid);
    const std::vector<double> times = flow::time_grid(bench.options.steps + 1, 1.0);
    size_t i = 0;
    const auto seconds = bench.timed(bench.options.steps, [&] {
      const at::Tensor velocity = denoiser->velocity(x, at::full({kImageRows}, times[i], x.options()));
      x = flow::ode_step(x, velocity, times[i], times[i + 1]);
      ++i;
    });
    const Weights read = weights_of(policy, /*drawing=*/true);
    const auto tokens = static_cast<double>(kImageRows * grid.num_tokens());
    row("denoise " + std::to_string(bench.options.image_size) + " px, 4 rows", seconds, kImageRows, "images/s",
        read.bytes, 2 * read.numbers * tokens, limits);
  }
  for (policy::Context& context : contexts) policy.release(context);
}

/// An update of everything on two groups of four.
void bench_update(const Bench& bench, const Limits& limits) {
  const int64_t image_size = std::min<int64_t>(bench.options.image_size, 256);
  rollout::RolloutConfig config;
  config.image_size = image_size;
  config.max_tokens = 128;
  config.window.width = 2;
  if (!policy::family_of(bench.options.model).generates_images) config.episode = {data::SegmentKind::text};
  std::vector<data::Prompt> prompts(2);
  prompts[0].text = "a red circle";
  prompts[1].text = "two squares beside a star";
  rollout::RolloutEngine engine(*bench.policy, config, bench.runtime, "");
  const auto trajectories =
      engine.rollout({.prompts = prompts, .keys = {0, 1}, .group_size = 4, .guidance = {}, .teacher_forced_text = {}});
  grpo::GrpoConfig grpo;
  grpo.image.penalty = flow::Penalty::none;
  grpo::Advantages advantages;
  double texts = 0, states = 0;
  for (size_t i = 0; i < trajectories.size(); ++i) {
    advantages.text.push_back(i % 2 == 0 ? 1 : -1);
    advantages.image.push_back(i % 2 == 0 ? 1 : -1);
    advantages.keep.push_back(true);
    for (const auto& text : trajectories[i].texts) texts += static_cast<double>(text.ids.size());
    for (const auto& flow : trajectories[i].flows) {
      states += static_cast<double>(flow.num_actions() * flow.stream().grid.num_tokens());
    }
  }
  const optim::OptimConfig optim_config;
  optim::AdamW optimizer(optim_config, bench.policy->parameters());
  optim::GradClip clip(optim_config);
  const auto seconds = bench.timed(std::max(3, bench.options.steps / 3), [&] {
    grpo::update({.policy = *bench.policy,
                  .optimizer = optimizer,
                  .clip = clip,
                  .config = grpo,
                  .rollout = config,
                  .runtime = bench.runtime},
                 trajectories, advantages, /*lr_factor=*/0.0);
  });
  // Forward, and twice as much backward. Masters, moments and gradients: what AdamW reads and writes, 4 bytes each.
  const Weights text = weights_of(*bench.policy, false), drawn = weights_of(*bench.policy, true);
  row("update, 8 samples", seconds, texts + states, "tokens/s", 28 * (text.numbers + drawn.numbers),
      6 * (text.numbers * texts + drawn.numbers * states), limits);
}

int run(const Options& options) {
  const auto choice = enum_value<policy::DtypeChoice>(options.dtype);
  if (!choice) throw BadInput("--dtype: expected {}, got '{}'", enum_choices<policy::DtypeChoice>(), options.dtype);
  Bench bench{.options = options,
              .runtime = make_runtime({.device = options.device, .device_key = "--device"}),
              .policy = nullptr};
  policy::PolicyConfig config;
  config.model = options.model;
  config.dtype = *choice;
  bench.policy = policy::load(config, bench.runtime);
  const Limits limits = measure_limits(bench, *choice == policy::DtypeChoice::bfloat16 ? at::kBFloat16 : at::kFloat);
  std::printf("%s, %s, %s, median of %d steps\n", options.model.c_str(), options.device.c_str(), options.dtype.c_str(),
              options.steps);
  std::printf("limits: %.1f TFLOP/s (a product of square matrices), %.1f GB/s (a copy, read and written)\n",
              limits.flop_s / 1e12, limits.bytes_s / 1e9);
  std::printf("%-24s %9s %9s %10s %-9s %8s %6s %8s %6s\n", "phase", "min ms", "median ms", "rate", "", "GB/s", "",
              "TFLOP/s", "");
  {
    const at::NoGradGuard no_grad;
    bench_text(bench, limits);
    if (policy::family_of(options.model).generates_images) bench_images(bench, limits);
  }
  bench_update(bench, limits);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("The phases of a step on one device");
  app.add_option("model", options.model, "Model folder")->required();
  app.add_option("--device", options.device, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--dtype", options.dtype, "float32 or bfloat16")->capture_default_str();
  app.add_option("--image-size", options.image_size, "Of the denoised images, pixels")->capture_default_str();
  app.add_option("--steps", options.steps, "That are timed")->capture_default_str()->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_device: %s\n", error.what());
    return dynamic_cast<const BadInput*>(&error) ? 2 : 1;
  }
}

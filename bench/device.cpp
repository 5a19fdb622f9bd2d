// The phases of a step on one device, beside what the device can do.
//
//   build-cuda/bin/bench_device MODEL [--device cuda] [--dtype bfloat16] [--image-size 512] [--steps 15]
//
// Limits are measured in the same run. Every step is waited for; the median counts. Rows "eager" are the same layers
// and weights as a plain PyTorch module would run them (eager.h); `ours / eager` is their median over ours.
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
#include "eager.h"
#include "flow/ode_step.h"
#include "flow/time_grid.h"
#include "grpo/update.h"
#include "policy/load.h"
#include "prompts.h"
#include "rollout/engine.h"
#include "rollout/text_decoder.h"
#include "runtime/runtime.h"
#include "tensor/rng.h"
#include "tensor/step_graph.h"

namespace {

using namespace unigrpo;
using Clock = std::chrono::steady_clock;

constexpr int64_t kTextRows = 64, kImageRows = 4;

struct Options {
  std::string model, device = "cuda", dtype = "bfloat16";
  int64_t image_size = 512;
  int steps = 15;
  bool eager = true, graphs = false;
};

struct Bench {
  Options options;
  Runtime runtime;
  std::unique_ptr<policy::UnifiedPolicy> policy;
  std::unique_ptr<bench::Eager> eager;  // null: not asked for

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
double row(const std::string& phase, const std::vector<double>& seconds, double items, const char* unit, double bytes,
           double flop, const Limits& limits) {
  const double median = seconds[seconds.size() / 2];
  std::printf("%-24s %9.2f %9.2f %10.1f %-9s %8.1f %5.0f%% %8.2f %5.0f%%\n", phase.c_str(), seconds.front() * 1e3,
              median * 1e3, items / median, unit, bytes / median / 1e9, 100 * bytes / median / limits.bytes_s,
              flop / median / 1e12, 100 * flop / median / limits.flop_s);
  return median;
}

/// `difference`: of the eager model's numbers from ours, largest over the largest of ours.
void compared(double ours_s, double eager_s, double difference) {
  std::printf("  ours / eager: %.2f times as fast; results differ by %.1e\n", eager_s / ours_s, difference);
}

double difference_of(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor a = got.to(at::kDouble), b = want.to(at::kDouble);
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

/// The prompts of bench::read_prompts.
bench::Eager::Past eager_prompts(const Bench& bench, int64_t rows, int64_t room) {
  const at::NoGradGuard no_grad;  // only then the cache is written
  auto past = bench.eager->past(rows, bench::kPromptTokens + room);
  const auto options = at::TensorOptions(at::kLong).device(bench.runtime.device);
  const at::Tensor ids = (7 * at::arange(rows, options).unsqueeze(1) + 3 * at::arange(bench::kPromptTokens, options)) %
                         bench.policy->tokenizer().vocab_size();
  bench.eager->read(ids, past);
  return past;
}

/// Logits of both after the prompts and one more token.
double text_difference(const Bench& bench) {
  std::vector<policy::Context> contexts = bench::read_prompts(*bench.policy, 2);
  policy::Context* rows[] = {contexts.data(), &contexts[1]};
  const std::vector<std::vector<int64_t>> next = {{5}, {9}};
  const at::Tensor ours = bench.policy->append_text(rows, next);
  for (policy::Context& context : contexts) bench.policy->release(context);
  auto past = eager_prompts(bench, 2, 1);
  const at::Tensor ids = at::tensor({5, 9}, at::kLong).unsqueeze(1).to(bench.runtime.device);
  return difference_of(bench.eager->logits(bench.eager->read(ids, past).select(1, 0)), ours);
}

void bench_eager_text(const Bench& bench, const Limits& limits, double ours_s) {
  auto past = eager_prompts(bench, kTextRows, bench.options.steps + 1);
  at::Tensor ids = at::ones({kTextRows, 1}, at::TensorOptions(at::kLong).device(bench.runtime.device));
  const auto seconds = bench.timed(bench.options.steps, [&] {
    const at::Tensor logits = bench.eager->logits(bench.eager->read(ids, past).select(1, 0)).to(at::kFloat);
    const at::Tensor log_probs = logits.log_softmax(-1);
    ids = log_probs.exp().multinomial(1);
    const at::Tensor entropy = -(log_probs.exp() * log_probs).sum(-1);
    at::cat({log_probs.gather(1, ids), entropy.unsqueeze(1), ids.to(at::kFloat)}, 1).cpu();
  });
  const Weights read = weights_of(*bench.policy, /*drawing=*/false);
  const double eager_s =
      row("decode, 64 rows, eager", seconds, kTextRows, "tokens/s", read.bytes, 2 * read.numbers * kTextRows, limits);
  compared(ours_s, eager_s, text_difference(bench));
}

at::Tensor boundary_ids(const Bench& bench) {
  const auto& special = bench.policy->tokenizer().special_tokens();
  const std::vector<int64_t> ids = {special.at("<|vision_start|>"), special.at("<|vision_end|>")};
  return at::tensor(ids, at::kLong).to(bench.runtime.device);
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
  const double ours_s =
      row("decode, 64 rows", seconds, kTextRows, "tokens/s", read.bytes, 2 * read.numbers * kTextRows, limits);
  for (policy::Context& context : contexts) policy.release(context);
  if (bench.eager) bench_eager_text(bench, limits, ours_s);
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
    const std::string name = "denoise " + std::to_string(bench.options.image_size) + " px, 4 rows";
    const double ours_s = row(name, seconds, kImageRows, "images/s", read.bytes, 2 * read.numbers * tokens, limits);
    if (bench.eager) {
      const auto past = eager_prompts(bench, kImageRows, 0);
      const at::Tensor boundary = boundary_ids(bench), t = at::full({kImageRows}, 0.5, x.options());
      const auto eager_seconds =
          bench.timed(bench.options.steps, [&] { bench.eager->velocity(x, t, grid, boundary, past); });
      const double eager_s =
          row(name + ", eager", eager_seconds, kImageRows, "images/s", read.bytes, 2 * read.numbers * tokens, limits);
      compared(ours_s, eager_s,
               difference_of(bench.eager->velocity(x, t, grid, boundary, past), denoiser->velocity(x, t)));
    }
  }
  for (policy::Context& context : contexts) policy.release(context);
}

/// What the update does with as many texts and states of as many tokens, and no more: forward, the two losses' main
/// terms, backward, clipping, AdamW over float32 masters.
class EagerUpdate {
 public:
  EagerUpdate(const Bench& bench, const std::vector<rollout::Trajectory>& trajectories)
      : bench_(bench), weights_(bench.eager->weights()) {
    const auto options = at::TensorOptions(at::kLong).device(bench.runtime.device);
    size_t longest = 1;
    for (const auto& each : trajectories) {
      if (!each.texts.empty()) longest = std::max(longest, each.texts.front().ids.size());
      for (const auto& flow : each.flows) {
        states_ += flow.num_actions();
        grid_ = flow.stream().grid;
      }
    }
    rows_ = static_cast<int64_t>(trajectories.size());
    length_ = bench::kPromptTokens + static_cast<int64_t>(longest);
    ids_ = at::arange(rows_ * length_, options).view({rows_, length_}) % bench.policy->tokenizer().vocab_size();
    for (const at::Tensor& weight : weights_) {
      masters_.push_back(weight.detach().to(at::kFloat, /*non_blocking=*/false, /*copy=*/true));
      first_.push_back(at::zeros_like(masters_.back()));
      second_.push_back(at::zeros_like(masters_.back()));
      steps_.push_back(at::zeros({}, masters_.back().options()));
    }
  }

  void operator()() {
    const bench::Eager& eager = *bench_.eager;
    auto none = eager.past(rows_, 0);
    const at::Tensor hidden =
        eager.read(ids_, none).narrow(1, bench::kPromptTokens - 1, length_ - bench::kPromptTokens);
    const at::Tensor drawn = ids_.narrow(1, bench::kPromptTokens, length_ - bench::kPromptTokens).unsqueeze(2);
    at::Tensor loss = -eager.logits(hidden).to(at::kFloat).log_softmax(-1).gather(2, drawn).mean();
    if (states_ > 0) {
      const at::Tensor latents = at::ones({states_, grid_.num_tokens(), bench_.policy->latent_channels()},
                                          at::TensorOptions(at::kFloat).device(bench_.runtime.device));
      const auto context = eager_prompts(bench_, states_, 0);
      const at::Tensor t = at::full({states_}, 0.5, latents.options());
      loss = loss + eager.velocity(latents, t, grid_, boundary_ids(bench_), context).square().mean();
    }
    loss.backward();
    step();
  }

 private:
  void step() {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> masters, grads, first, second, steps, squares;
    for (size_t i = 0; i < weights_.size(); ++i) {
      if (!weights_[i].grad().defined()) continue;
      grads.push_back(weights_[i].grad().to(at::kFloat));
      squares.push_back(grads.back().square().sum());
      masters.push_back(masters_[i]);
      first.push_back(first_[i]);
      second.push_back(second_[i]);
      steps.push_back(steps_[i]);
    }
    const at::Tensor factor = at::clamp_max(1.0 / (at::stack(squares).sum().sqrt() + 1e-6), 1.0);
    at::_foreach_mul_(grads, factor);
    at::_foreach_add_(steps, 1);
    constexpr double kRate = 0;  // the weights are the policy's
    at::_fused_adamw_(masters, grads, first, second, {}, steps, kRate, 0.9, 0.999, 0.01, 1e-8, /*amsgrad=*/false,
                      /*maximize=*/false);
    for (size_t i = 0; i < weights_.size(); ++i) {
      if (!weights_[i].grad().defined()) continue;
      weights_[i].copy_(masters_[i]);
      weights_[i].mutable_grad() = at::Tensor();
    }
  }

  const Bench& bench_;
  std::vector<at::Tensor> weights_, masters_, first_, second_, steps_;
  at::Tensor ids_;
  policy::LatentGrid grid_;
  int64_t rows_ = 0, length_ = 0, states_ = 0;
};

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
  auto trajectories =
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
    for (auto& trajectory : trajectories) {  // taken for this step's own: the rate is 0, a step counts as new weights
      const uint64_t version = bench.policy->weights_version();
      for (auto& text : trajectory.texts) text.fingerprint.weights_version = version;
      for (auto& flow : trajectory.flows) flow.fingerprint.weights_version = version;
    }
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
  const double bytes = 28 * (text.numbers + drawn.numbers), flop = 6 * (text.numbers * texts + drawn.numbers * states);
  const double ours_s = row("update, 8 samples", seconds, texts + states, "tokens/s", bytes, flop, limits);
  if (!bench.eager) return;
  EagerUpdate eager(bench, trajectories);
  const auto eager_seconds = bench.timed(std::max(3, bench.options.steps / 3), [&] { eager(); });
  const double eager_s =
      row("update, 8 samples, eager", eager_seconds, texts + states, "tokens/s", bytes, flop, limits);
  std::printf("  ours / eager: %.2f times as fast\n", eager_s / ours_s);
}

int run(const Options& options) {
  const auto choice = enum_value<policy::DtypeChoice>(options.dtype);
  if (!choice) throw BadInput("--dtype: expected {}, got '{}'", enum_choices<policy::DtypeChoice>(), options.dtype);
  Bench bench{.options = options,
              .runtime = make_runtime({.device = options.device, .device_key = "--device"}),
              .policy = nullptr,
              .eager = nullptr};
  if (options.graphs && !bench.runtime.device.is_cuda()) throw BadInput("--graphs: expected a CUDA device");
  policy::PolicyConfig config;
  config.model = options.model;
  config.dtype = *choice;
  bench.policy = policy::load(config, bench.runtime);
  if (options.eager) bench.eager = std::make_unique<bench::Eager>(*bench.policy, policy::read_sizes(options.model).llm);
  const Limits limits = measure_limits(bench, *choice == policy::DtypeChoice::bfloat16 ? at::kBFloat16 : at::kFloat);
  std::printf("%s, %s, %s, median of %d steps\n", options.model.c_str(), options.device.c_str(), options.dtype.c_str(),
              options.steps);
  std::printf("limits: %.1f TFLOP/s (a product of square matrices), %.1f GB/s (a copy, read and written)\n",
              limits.flop_s / 1e12, limits.bytes_s / 1e9);
  std::printf("%-24s %9s %9s %10s %-9s %8s %6s %8s %6s\n", "phase", "min ms", "median ms", "rate", "", "GB/s", "",
              "TFLOP/s", "");
  {
    const at::NoGradGuard no_grad;
    if (options.graphs) bench.policy->use_graphs(tensor::graphs_of(bench.runtime.device));
    bench_text(bench, limits);
    if (policy::family_of(options.model).generates_images) bench_images(bench, limits);
    bench.policy->use_graphs({});
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
  app.add_flag("--graphs", options.graphs, "Record our steps of decoding and denoising");
  app.add_flag("!--no-eager", options.eager, "Without the rows of plain PyTorch");
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_device: %s\n", error.what());
    return dynamic_cast<const BadInput*>(&error) ? 2 : 1;
  }
}

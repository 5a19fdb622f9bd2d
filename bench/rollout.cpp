// Rollouts on the CPU: text decoding at batch 8 and denoising at batch 4, beside what the machine can do.
//
//   build/bin/bench_rollout MODEL [float32|bfloat16] [threads] [image_size] [steps]
//
// Steps are timed in one pass and recorded, operator by operator, in a second one for the shares.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "flow/ode_step.h"
#include "flow/time_grid.h"
#include "kernels/linear.h"
#include "policy/load.h"
#include "prompts.h"
#include "rollout/text_decoder.h"
#include "tensor/rng.h"

namespace {

using namespace unigrpo;
using Clock = std::chrono::steady_clock;

constexpr int64_t kTextRows = 8, kImageRows = 4;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// What the operators of a pass did.
struct Work {
  double product_s = 0, attention_s = 0;
  double flop = 0;          // multiplications and additions of both
  double weight_bytes = 0;  // right-hand sides of products of two matrices
};
Work recorded;  // a callback is a plain function

struct OpTimer final : at::ObserverContext {
  explicit OpTimer(double& total_) : total(total_) {}
  double& total;
  Clock::time_point start = Clock::now();
};

/// Operators that multiply matrices themselves, with the place of the left operand among their inputs; none calls
/// another.
struct Product {
  std::string_view name;
  size_t left;
};
constexpr Product kProducts[] = {
    {"aten::mm", 0}, {"aten::addmm", 1}, {"aten::bmm", 0}, {"aten::baddbmm", 1}, {"mkldnn::_linear_pointwise", 0}};
constexpr std::string_view kFusedAttention = "aten::_scaled_dot_product_flash_attention_for_cpu";
constexpr std::string_view kBlockAttention = "unigrpo::block_attention";

std::unique_ptr<at::ObserverContext> op_starts(const at::RecordFunction& op) {
  const std::string_view name = op.name();
  if (name == kBlockAttention) {
    const at::Tensor &q = op.inputs()[0].toTensor(), &query_start = op.inputs()[4].toTensor(),
                     &key_start = op.inputs()[6].toTensor();
    const double pairs = (query_start.diff() * key_start.diff()).sum().item<double>();
    recorded.flop += 4.0 * pairs * static_cast<double>(q.size(1) * q.size(2));
    return std::make_unique<OpTimer>(recorded.attention_s);
  }
  if (name == kFusedAttention) {
    const at::Tensor &q = op.inputs()[0].toTensor(), &k = op.inputs()[1].toTensor();
    recorded.flop += 4.0 * static_cast<double>(q.numel() * k.size(-2));
    return std::make_unique<OpTimer>(recorded.attention_s);
  }
  const auto* product = std::ranges::find(kProducts, name, &Product::name);
  if (product == std::end(kProducts)) return nullptr;
  const at::Tensor& left = op.inputs()[product->left].toTensor();       // [M, K] or [B, M, K]
  const at::Tensor& right = op.inputs()[product->left + 1].toTensor();  // [K, N], [N, K] or [B, K, N]
  const int64_t batch = right.dim() == 3 ? right.size(0) : 1;
  recorded.flop += 2.0 * static_cast<double>(left.numel()) * static_cast<double>(right.numel() / batch / left.size(-1));
  if (right.dim() == 2) recorded.weight_bytes += static_cast<double>(right.nbytes());
  return std::make_unique<OpTimer>(recorded.product_s);
}

void op_ends(const at::RecordFunction&, at::ObserverContext* context) {
  if (auto* timer = static_cast<OpTimer*>(context)) timer->total += seconds_since(timer->start);
}

struct Limits {
  double read_bytes_s, product_flop_s;
};

Limits measure_limits(at::ScalarType dtype) {
  const at::Tensor large = at::ones({int64_t{1} << 26});
  const at::Tensor square = at::randn({2048, 2048}).to(dtype);
  std::vector<double> read, product;
  for (int i = 0; i < 5; ++i) {
    auto start = Clock::now();
    large.sum();
    read.push_back(seconds_since(start));
    start = Clock::now();
    kernels::linear(square, square, {});
    product.push_back(seconds_since(start));
  }
  return {.read_bytes_s = static_cast<double>(large.nbytes()) / median(read),
          .product_flop_s = 2.0 * 2048 * 2048 * 2048 / median(product)};
}

/// A row: one step's time, `per_step` / that time in `unit`, shares of products and attention, rates beside the limits.
void row(const std::string& phase, int64_t per_step, const char* unit, const Limits& limits, int steps,
         const std::function<void()>& step) {
  step();  // room in the cache, oneDNN's kernels
  std::vector<double> seconds;
  for (int i = 0; i < steps; ++i) {
    const auto start = Clock::now();
    step();
    seconds.push_back(seconds_since(start));
  }
  recorded = {};
  const auto callback = at::addThreadLocalCallback(
      at::RecordFunctionCallback(op_starts, op_ends).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  const auto start = Clock::now();
  for (int i = 0; i < steps; ++i) step();
  const double recorded_s = seconds_since(start);
  at::removeCallback(callback);
  const double time = median(seconds);
  const double flop_s = recorded.flop / steps / time, read_s = recorded.weight_bytes / steps / time;
  std::printf("%-20s %9.1f %9.1f %9.2f %-8s %8.0f%% %9.0f%% %8.1f %5.0f%% %8.1f %5.0f%%\n", phase.c_str(),
              *std::ranges::min_element(seconds) * 1e3, time * 1e3, static_cast<double>(per_step) / time, unit,
              100 * recorded.product_s / recorded_s, 100 * recorded.attention_s / recorded_s, flop_s / 1e9,
              100 * flop_s / limits.product_flop_s, read_s / 1e9, 100 * read_s / limits.read_bytes_s);
}

void bench_text(policy::TextPolicy& policy, const Limits& limits, int steps) {
  std::vector<policy::Context> contexts = bench::read_prompts(policy, kTextRows);
  auto opened = [&](size_t i) {
    return rollout::TextRow(&contexts[i], {.sample = i, .purpose = Purpose::text_sampling}, int64_t{1} << 20);
  };
  std::vector<rollout::TextRow> texts;
  for (size_t i = 0; i < contexts.size(); ++i) texts.push_back(opened(i));
  row("text decoding", kTextRows, "tokens/s", limits, steps, [&] {
    std::vector<rollout::TextRow*> rows;
    for (size_t i = 0; i < texts.size(); ++i) {
      if (texts[i].finished) texts[i] = opened(i);  // the batch stays whole
      rows.push_back(&texts[i]);
    }
    rollout::decode_step(policy, rows, 1.0);
  });
  for (policy::Context& context : contexts) policy.release(context);
}

void bench_images(policy::UnifiedPolicy& policy, int64_t image_size, const Limits& limits, int steps) {
  std::vector<policy::Context> contexts = bench::read_prompts(policy, kImageRows);
  const std::vector<const policy::Context*> rows = {&contexts[0], &contexts[1], &contexts[2], &contexts[3]};
  const policy::LatentGrid grid = policy.grid_for(image_size);
  at::Tensor x =
      tensor::normal({kImageRows, grid.num_tokens(), policy.latent_channels()}, {.purpose = Purpose::initial_noise});
  {
    const auto denoiser = policy.denoise(rows, grid);
    const std::vector<double> times = flow::time_grid(2 * steps + 1, 1.0);
    size_t i = 0;
    const std::string side = std::to_string(image_size);
    row("denoising " + side + "x" + side, 1, "steps/s", limits, steps, [&] {
      const at::Tensor velocity = denoiser->velocity(x, at::full({kImageRows}, times[i], at::kFloat));
      x = flow::ode_step(x, velocity, times[i], times[i + 1]);
      ++i;
    });
  }
  for (policy::Context& context : contexts) policy.release(context);
}

int run(int argc, char** argv) {
  const std::string dtype = argc > 2 ? argv[2] : "bfloat16";
  const auto choice = enum_value<policy::DtypeChoice>(dtype);
  if (!choice) throw BadInput("expected {}, got '{}'", enum_choices<policy::DtypeChoice>(), dtype);
  at::set_num_threads(argc > 3 ? std::atoi(argv[3]) : 2);
  const int64_t image_size = argc > 4 ? std::atoi(argv[4]) : 256;
  const int steps = argc > 5 ? std::atoi(argv[5]) : 15;

  policy::PolicyConfig config;
  config.model = argv[1];
  config.freeze = {"*"};
  config.dtype = *choice;
  const auto model = policy::load(config, {});
  const at::NoGradGuard no_grad;
  const Limits limits = measure_limits(*choice == policy::DtypeChoice::bfloat16 ? at::kBFloat16 : at::kFloat);
  std::printf("%s, %s, %d thread(s), median of %d steps; %lld rows of text, %lld of images\n", argv[1], dtype.c_str(),
              at::get_num_threads(), steps, static_cast<long long>(kTextRows), static_cast<long long>(kImageRows));
  std::printf("limits: %.1f GFLOP/s (a product of 2048 x 2048 matrices), %.1f GB/s (the sum of 256 MiB)\n",
              limits.product_flop_s / 1e9, limits.read_bytes_s / 1e9);
  std::printf("%-20s %9s %9s %9s %-8s %9s %10s %8s %6s %8s %6s\n", "phase", "min ms", "median ms", "rate", "",
              "products", "attention", "GFLOP/s", "", "GB/s", "");
  bench_text(*model, limits, steps);
  if (policy::family_of(config.model).generates_images) bench_images(*model, image_size, limits, steps);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_rollout MODEL [float32|bfloat16] [threads] [image_size] [steps]\n");
    return 2;
  }
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_rollout: %s\n", error.what());
    return 2;
  }
}

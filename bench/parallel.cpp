// What layers cost on ranks, which this program starts, each on a core of its own.
//
//   build/bin/bench_parallel MODEL --per-layer [--ranks 2] [--tp 1] [--sp 1] [--shard none] [--plan FILE]
//                            [--samples 2] [--text 256] [--side 16] [--dtype float32] [--steps 7]
//
// A row a layer: milliseconds of its forward and of its backward pass (the slowest rank's, the median of the steps), MB
// that a rank sends in both (the most of any rank; with shared weights or gradients these too, else gradients are sent
// once an optimizer step), MB that it holds from one pass to the other for them, and of weights, gradients and
// optimizer state all the time. Weights are random and only of MODEL's shape; a sample is a text and, where the model
// has generation experts, an image of side x side tokens.
//
//   build/bin/bench_parallel MODEL --gathers [--ranks 2] [--samples 2] [--text 256] [--side 16] [--steps 7]
//
// How much of the gathers of shared weights is hidden behind work, over all layers, forward and backward: a JSON object
// of "alone_ms", what as many gathers take when nothing else is done; "waited_ms", what the slowest rank waits for them
// in a step; and "hidden", 1 - waited / alone. Medians of the steps.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <arpa/inet.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <fmt/format.h>
#include <malloc.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/signals.h"
#include "parallel/config.h"
#include "parallel/groups.h"
#include "parallel/meeting.h"
#include "parallel/sharded_model.h"
#include "parallel/world.h"
#include "policy/initial_weight.h"
#include "policy/layer_split.h"
#include "policy/load.h"
#include "policy/placement.h"
#include "policy/sharded.h"

namespace {

using namespace unigrpo;

constexpr double kMib = 1024.0 * 1024.0;

struct Options {
  std::string model, plan, shard = "none", dtype = "float32";
  int64_t ranks = 2, tp = 1, sp = 1, samples = 2, text = 256, side = 16, steps = 7;
  bool per_layer = false, gathers = false;
};

/// Counts what is alive: Gloo's threads, too, give back what a rank has allocated.
class CountingAllocator : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* const data = c10::alloc_cpu(bytes);
    live_ += static_cast<int64_t>(malloc_usable_size(data));
    return {data, data, &free, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
  static double live_mb() { return static_cast<double>(live_) / kMib; }

 private:
  static void free(void* data) {
    if (data) live_ -= static_cast<int64_t>(malloc_usable_size(data));
    c10::free_cpu(data);
  }
  inline static std::atomic<int64_t> live_ = 0;
};

/// What a layer costs; of a rank, or the most of any.
struct Cost {
  double forward_ms = 0, backward_ms = 0, sent_mb = 0, held_mb = 0, state_mb = 0;
};

template <typename Bytes, SameAs<Cost> T>
void fields(Bytes& bytes, T& cost) {
  bytes(cost.forward_ms, cost.backward_ms, cost.sent_mb, cost.held_mb, cost.state_mb);
}

double sent_mb(const std::shared_ptr<parallel::Comm>& world) {
  double bytes = 0;
  if (world) {
    for (const auto& [purpose, totals] : world->calls().totals()) bytes += static_cast<double>(totals.bytes);
  }
  return bytes / kMib;
}

/// Some layers of a model.
struct Model {
  NamedTensors parameters;
  std::unique_ptr<policy::MotTransformer> transformer;
  std::shared_ptr<parallel::ShardedModel> sharded;

  void begin() const {
    if (sharded) sharded->begin(/*with_backward=*/true);
  }
  void end() const {
    if (sharded) sharded->end();
  }
};

Model make_model(policy::MotConfig config, int64_t layers, const Options& options, bool recompute) {
  config.num_layers = layers;
  Model out;
  const auto dtype = options.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
  nn::Weights weights("random weights", [&](const std::string& name, const std::vector<int64_t>& shape) {
    const at::Tensor value = policy::initial_weight(config, name, shape, 1).to(dtype).set_requires_grad(true);
    out.parameters.push_back({name, value});
    return value;
  });
  out.transformer = std::make_unique<policy::MotTransformer>(config, weights, nullptr);
  out.transformer->set_recompute(recompute);
  return out;
}

void shard(Model& model, const parallel::Groups& groups, parallel::Shard level) {
  const auto layers = static_cast<size_t>(model.transformer->config().num_layers);
  const parallel::ShardedModel::Ranks ranks = policy::ranks_of(groups, layers);
  if (level == parallel::Shard::none && ranks.slices.empty()) return;
  std::vector<NamedTensors> units(layers + 1);
  for (const NamedTensor& parameter : model.parameters) {
    units[static_cast<size_t>(model.transformer->layer_of(parameter.name) + 1)].push_back(parameter);
  }
  policy::cut_units(units, model.transformer->sliced_dimensions(), ranks.slices);
  level = std::max(level, parallel::Shard::optimizer);  // as policy::shard does
  model.sharded = std::make_shared<parallel::ShardedModel>(units, ranks, level, parallel::Reduce::each);
  model.transformer->set_sharded(model.sharded, 1);
}

policy::TrainBatch batch_of(const Options& options, const policy::MotConfig& config) {
  policy::TrainBatch batch{.prefixes = {{}}, .sequences = {}};
  const int64_t tokens = options.side * options.side;
  for (int64_t s = 0; s < options.samples; ++s) {
    policy::TrainSequence sequence;
    sequence.blocks.push_back(policy::TextBlock{std::vector<int64_t>(static_cast<size_t>(options.text), 1)});
    if (config.generation_expert) {
      sequence.blocks.push_back(policy::NoisyBlock{
          .latents = at::zeros({1, tokens, 1}), .t = at::ones({1}), .grid = {options.side, options.side}});
    }
    batch.sequences.push_back(std::move(sequence));
  }
  return batch;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// Weights, gradients, and AdamW's moments beside float32 weights, of this rank.
double state_mb(const Model& model, parallel::Shard level, int64_t shard_ranks) {
  double elements = 0, bytes = 0;
  for (const NamedTensor& parameter : model.parameters) {
    if (model.transformer->layer_of(parameter.name) < 0) continue;
    elements += static_cast<double>(parameter.tensor.numel());
    bytes += static_cast<double>(parameter.tensor.numel() * parameter.tensor.element_size());
  }
  const auto share = [&](parallel::Shard from) { return level >= from ? static_cast<double>(shard_ranks) : 1.0; };
  using enum parallel::Shard;
  return (bytes / share(weights) + 4 * elements / share(gradients) + 8 * elements / share(optimizer)) / kMib;
}

Cost measure(const Options& options, const policy::MotConfig& config, const std::shared_ptr<parallel::Comm>& world,
             const parallel::Groups& groups, const parallel::LayerPlan& plan) {
  Model model = make_model(config, 1, options, plan.recompute);
  shard(model, groups, plan.shard);
  const double state = state_mb(model, plan.shard, groups.shape.shard_ranks);
  const policy::TrainBatch batch = batch_of(options, config);
  const policy::Placement placed(batch, 0, 1);
  policy::ModelRanks ranks{
      .all = groups.model,
      .tensor = groups.tensor,
      .sequence = groups.sequence,
      .layers = {{.tp = plan.tp, .sp = plan.sp, .tensor = groups.tensor, .sequence = groups.sequence}}};
  policy::PackedTokens tokens = placed.packed(model.transformer->options(), groups.model ? &ranks : nullptr);
  tokens.send(model.transformer->options().device(), {});
  const at::Tensor own =
      at::randn({tokens.position_ids.size(0), config.hidden_size}, model.transformer->options()).requires_grad_();
  std::vector<double> forward, backward;
  Cost cost{.state_mb = state};
  for (int64_t step = 0; step <= options.steps; ++step) {
    for (NamedTensor& parameter : model.parameters) parameter.tensor.mutable_grad().reset();
    own.mutable_grad().reset();
    if (model.sharded) model.sharded->drop_gradients();
    model.begin();
    if (world) world->barrier("step");
    const double sent = sent_mb(world);
    const double before = CountingAllocator::live_mb();
    const Stopwatch forward_watch;
    const at::Tensor out = model.transformer->forward(own, tokens, nullptr);
    const double forward_s = forward_watch.seconds();
    if (world) world->barrier("forward");
    const double held = CountingAllocator::live_mb() - before;
    const Stopwatch backward_watch;
    out.backward(at::ones_like(out));
    const double backward_s = backward_watch.seconds();
    if (step > 0) {
      forward.push_back(forward_s * 1e3);
      backward.push_back(backward_s * 1e3);
      cost.sent_mb = sent_mb(world) - sent;
      cost.held_mb = held;
    }
    model.end();
  }
  cost.forward_ms = median(forward);
  cost.backward_ms = median(backward);
  if (!world) return cost;
  for (const std::string& bytes : world->gather_bytes(to_bytes(cost), "costs")) {
    Cost other;
    from_bytes(bytes, other);
    for (double Cost::*part : {&Cost::forward_ms, &Cost::backward_ms, &Cost::sent_mb, &Cost::held_mb}) {
      cost.*part = std::max(cost.*part, other.*part);
    }
  }
  return cost;
}

parallel::CallTotals gathered(const parallel::Comm& world) {
  const auto totals = world.calls().totals();
  const auto found = totals.find("weights");
  return found == totals.end() ? parallel::CallTotals{} : found->second;
}

/// Milliseconds of as many gathers of as many bytes in all, one after the other and nothing else meanwhile.
double gathers_alone_ms(const std::shared_ptr<parallel::Comm>& world, const parallel::CallTotals& of_step) {
  const int64_t share = of_step.bytes / of_step.calls / (world->size() - 1) / 4;
  at::Tensor all = at::zeros({share * world->size()});
  const at::Tensor mine = at::zeros({share});
  world->barrier("alone");
  const Stopwatch watch;
  for (int64_t i = 0; i < of_step.calls; ++i) world->all_gather(all, mine, "alone");
  return watch.seconds() * 1e3;
}

int measure_gathers(const Options& options, const policy::MotConfig& config) {
  const std::shared_ptr<parallel::Comm> world = parallel::meet(parallel::read_world(), {}, {}, {});
  if (!world) throw std::invalid_argument("--gathers needs ranks");
  const parallel::Groups groups = parallel::make_groups(world, {.shard_ranks = 0});
  Model model = make_model(config, config.num_layers, options, false);
  shard(model, groups, parallel::Shard::weights);
  const policy::TrainBatch batch = batch_of(options, config);
  const policy::PackedTokens tokens = policy::Placement(batch, 0, 1).packed(model.transformer->options(), nullptr);
  const at::Tensor own = at::randn({tokens.position_ids.size(0), config.hidden_size}, model.transformer->options());
  std::vector<double> waited, alone;
  for (int64_t step = 0; step <= options.steps; ++step) {
    model.sharded->drop_gradients();
    world->barrier("step");
    const parallel::CallTotals before = gathered(*world);
    model.begin();
    const at::Tensor out = model.transformer->forward(own.detach().requires_grad_(), tokens, nullptr);
    out.backward(at::ones_like(out));
    model.end();
    const parallel::CallTotals after = gathered(*world);
    const parallel::CallTotals of_step{.calls = after.calls - before.calls, .bytes = after.bytes - before.bytes};
    double most = 0;
    for (const std::string& bytes : world->gather_bytes(to_bytes(after.seconds - before.seconds), "waits")) {
      double other = 0;
      from_bytes(bytes, other);
      most = std::max(most, other);
    }
    const double alone_ms = gathers_alone_ms(world, of_step);
    if (step == 0) continue;
    waited.push_back(most * 1e3);
    alone.push_back(alone_ms);
  }
  if (world->rank() == 0) {
    fmt::print("{{\"alone_ms\": {:.2f}, \"waited_ms\": {:.2f}, \"hidden\": {:.3f}}}\n", median(alone), median(waited),
               1 - median(waited) / median(alone));
  }
  world->barrier("end");
  return 0;
}

int run_rank(const Options& options) {
  at::set_num_threads(1);
  const policy::MotConfig config = policy::read_sizes(options.model).llm;
  if (options.gathers) return measure_gathers(options, config);
  static CountingAllocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
  const parallel::LayerPlan alike{
      .shard = *enum_value<parallel::Shard>(options.shard), .tp = options.tp, .sp = options.sp};
  std::vector<parallel::LayerPlan> layers(static_cast<size_t>(config.num_layers), alike);
  if (!options.plan.empty()) layers = parallel::read_layer_plan(options.plan, alike).layers;
  const parallel::World where = parallel::read_world();
  const std::shared_ptr<parallel::Comm> world = parallel::meet(where, {}, {}, {});
  if (where.rank == 0) {
    fmt::print("{:>5}  {:>3} {:>3} {:<9} {:>9}  {:>10} {:>11}  {:>8} {:>8} {:>9}\n", "layer", "tp", "sp", "shard",
               "recompute", "forward ms", "backward ms", "sent MB", "held MB", "state MB");
  }
  std::map<std::tuple<parallel::Shard, int64_t, int64_t, bool>, Cost> known;
  for (size_t i = 0; i < layers.size(); ++i) {
    const parallel::LayerPlan& plan = layers[i];
    const auto key = std::tuple(plan.shard, plan.tp, plan.sp, plan.recompute);
    if (!known.contains(key)) {
      parallel::Groups groups;
      if (world)
        groups = parallel::make_groups(
            world, {.tp = plan.tp, .sp = plan.sp, .shard_ranks = plan.shard == parallel::Shard::none ? 1 : 0});
      groups.shape.shard_ranks = groups.shard ? groups.shard->size() : 1;
      known[key] = measure(options, config, world, groups, plan);
    }
    const Cost& cost = known[key];
    if (where.rank != 0) continue;
    fmt::print("{:>5}  {:>3} {:>3} {:<9} {:>9}  {:>10.2f} {:>11.2f}  {:>8.2f} {:>8.2f} {:>9.2f}\n", i, plan.tp, plan.sp,
               enum_name(plan.shard), plan.recompute ? "yes" : "no", cost.forward_ms, cost.backward_ms, cost.sent_mb,
               cost.held_mb, cost.state_mb);
  }
  if (world) world->barrier("end");
  return 0;
}

int free_port() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0) throw std::runtime_error("no free port");
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  close(fd);
  return ntohs(address.sin_port);
}

/// This program again, as each of the ranks.
int start_ranks(int64_t count, char** argv) {
  const std::string port = std::to_string(free_port()), size = std::to_string(count);
  std::vector<pid_t> ranks;
  for (int64_t rank = 0; rank < count; ++rank) {
    const pid_t pid = fork();
    if (pid > 0) {
      ranks.push_back(pid);
      continue;
    }
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(static_cast<size_t>(rank % sysconf(_SC_NPROCESSORS_ONLN)), &core);
    sched_setaffinity(0, sizeof core, &core);
    const std::string number = std::to_string(rank);
    for (const auto& [name, value] : std::map<std::string, std::string>{{"RANK", number},
                                                                        {"LOCAL_RANK", number},
                                                                        {"WORLD_SIZE", size},
                                                                        {"LOCAL_WORLD_SIZE", size},
                                                                        {"MASTER_ADDR", "127.0.0.1"},
                                                                        {"MASTER_PORT", port}}) {
      setenv(name.c_str(), value.c_str(), 1);
    }
    execv("/proc/self/exe", argv);
    std::_Exit(1);
  }
  int worst = 0;
  for (const pid_t pid : ranks) {
    int status = 0;
    waitpid(pid, &status, 0);
    worst = std::max(worst, WIFEXITED(status) ? WEXITSTATUS(status) : 1);
  }
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("what layers cost on ranks");
  app.add_option("model", options.model)->required();
  auto& what = *app.add_option_group("what", "one of");
  what.add_flag("--per-layer", options.per_layer);
  what.add_flag("--gathers", options.gathers);
  what.require_option(1);
  app.add_option("--ranks", options.ranks);
  app.add_option("--tp", options.tp);
  app.add_option("--sp", options.sp);
  app.add_option("--shard", options.shard)->check(CLI::IsMember({"none", "optimizer", "gradients", "weights"}));
  app.add_option("--plan", options.plan);
  app.add_option("--samples", options.samples);
  app.add_option("--text", options.text);
  app.add_option("--side", options.side);
  app.add_option("--dtype", options.dtype)->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--steps", options.steps);
  CLI11_PARSE(app, argc, argv);
  try {
    if (options.ranks > 1 && std::getenv("RANK") == nullptr) return start_ranks(options.ranks, argv);
    return run_rank(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_parallel: %s\n", error.what());
    return 1;
  }
}

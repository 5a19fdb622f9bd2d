#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/clock.h"
#include "cli/measure.h"
#include "policy/initial_weight.h"
#include "policy/load.h"
#include "policy/mot_transformer.h"

namespace unigrpo::cli {
namespace {

constexpr int64_t kFew = 1, kMany = 3;  // layers
constexpr double kMib = 1024.0 * 1024.0;

/// Counts the bytes that allocators hand out and get back while it is there.
class LiveBytes : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* /*ptr*/, int64_t size, size_t /*allocated*/, size_t /*reserved*/,
                         c10::Device /*device*/) override {
    bytes_ += size;
  }
  bool memoryProfilingEnabled() const override { return true; }
  double mb() const { return static_cast<double>(bytes_) / kMib; }

 private:
  int64_t bytes_ = 0;
};

/// Packed samples of `seq` tokens.
struct Batch {
  at::Tensor ids, latents;  // [T text], [T images, D]
  policy::PackedTokens tokens;
};

Batch make_batch(const policy::MotTransformer& model, int64_t samples, int64_t text, int64_t image) {
  const bool split = model.config().generation_expert;
  if (!split) text += image, image = 0;
  Batch out;
  out.ids = at::arange(samples * text).remainder(model.config().vocab_size);
  out.latents = at::zeros({samples * image, model.config().hidden_size}, model.options());
  std::vector<nn::QueryBlock> blocks;
  std::vector<int64_t> parts = {samples};
  const auto rows = [](int64_t first, int64_t count) {
    std::vector<int64_t> all(static_cast<size_t>(count));
    std::iota(all.begin(), all.end(), first);
    return all;
  };
  for (int64_t s = 0; s < samples; ++s) blocks.push_back({rows(s * text, text), rows(s * text, text), true});
  if (image > 0) parts.push_back(samples);
  for (int64_t s = 0; s < samples && image > 0; ++s) {
    std::vector<int64_t> own = rows(samples * text + s * image, image), keys = rows(s * text, text);
    keys.insert(keys.end(), own.begin(), own.end());
    blocks.push_back({std::move(own), std::move(keys), false});
  }
  const int64_t total = samples * (text + image);
  out.tokens.num_und = samples * text;
  // Images stand at one position, after their text.
  out.tokens.position_ids = at::cat({at::arange(text).repeat({samples}), at::full({samples * image}, text, at::kLong)});
  out.tokens.layout = std::make_shared<nn::AttentionLayout>(blocks, parts, total, model.options());
  out.tokens.send(model.options().device(), {&out.ids});
  return out;
}

/// Hidden states of all, logits of the text: what a loss reads.
std::pair<at::Tensor, at::Tensor> forward(const policy::MotTransformer& model, const Batch& batch) {
  const at::Tensor embeds = at::cat({model.embed(batch.ids), batch.latents});
  const at::Tensor hidden = model.forward(embeds, batch.tokens, nullptr);
  return {hidden, model.logits(hidden.narrow(0, 0, batch.tokens.num_und))};
}

void finish(c10::Device device) {
  if (!device.is_cpu()) c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
}

struct Model {
  std::vector<at::Tensor> parameters;
  std::unique_ptr<policy::MotTransformer> transformer;
};

Model make_model(policy::MotConfig config, int64_t layers, bool half, const Runtime& runtime) {
  config.num_layers = layers;
  Model out;
  nn::Weights weights("random weights", [&](const std::string& name, const std::vector<int64_t>& shape) {
    const at::Tensor value = policy::initial_weight(config, name, shape, runtime.seed);
    at::Tensor parameter = value.to(at::TensorOptions(runtime.device).dtype(half ? at::kBFloat16 : at::kFloat));
    out.parameters.push_back(parameter.set_requires_grad(true));
    return parameter;
  });
  out.transformer = std::make_unique<policy::MotTransformer>(config, weights, nullptr);
  return out;
}

double parameter_mb(const Model& model) {
  double elements = 0;
  for (const at::Tensor& parameter : model.parameters) elements += static_cast<double>(parameter.numel());
  return 4 * elements / kMib;
}

/// Bytes that are alive after a forward pass, MB.
double activation_mb(const Model& model, const Batch& batch, bool recompute) {
  model.transformer->set_recompute(recompute);
  const auto live = std::make_shared<LiveBytes>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, live);
  const auto out = forward(*model.transformer, batch);
  const double mb = live->mb();
  model.transformer->set_recompute(false);
  return mb;
}

planner::MeasuredModel::Memory memory_of(const Model& model, const Batch& batch) {
  return {.parameter_mb = parameter_mb(model),
          .activation_mb = activation_mb(model, batch, false),
          .checkpoint_mb = activation_mb(model, batch, true)};
}

Batch batch_of(const ModelQuestion& question, const Model& model, int64_t samples, int64_t seq) {
  const int64_t text = std::max<int64_t>(1, question.text_tokens * seq / question.workload.sample.tokens);
  return make_batch(*model.transformer, samples, text, seq - text);
}

double forward_ms(const Model& model, const Batch& batch, const std::string& name, const Runtime& runtime,
                  Samples& samples) {
  return samples.median_of(name, [&] {
    finish(runtime.device);
    const Stopwatch watch;
    forward(*model.transformer, batch);
    finish(runtime.device);
    return watch.seconds() * 1e3;
  });
}

/// A rank's slice of a layer times the number of ranks, over the whole layer, by that number; at the most samples that
/// are asked for. Norms are of all rows, of which a rank has a part.
std::map<int64_t, double> slice_slowdown(const ModelQuestion& question, const policy::MotConfig& config,
                                         const std::vector<planner::TimedForward>& whole, const Runtime& runtime,
                                         Samples& samples) {
  const planner::SampleShape& sample = question.workload.sample;
  const int64_t count = *std::ranges::max_element(question.batches);
  const auto per_layer = [](double few_ms, double many_ms) { return (many_ms - few_ms) / (kMany - kFew); };
  const auto whole_ms = [&](int64_t layers) {
    return std::ranges::find_if(whole,
                                [&](const planner::TimedForward& timed) {
                                  return timed.layers == layers && timed.batch == count && timed.seq == sample.tokens;
                                })
        ->ms;
  };
  const auto slice_ms = [&](int64_t ranks, int64_t layers) {
    policy::MotConfig slice = config;
    slice.num_heads /= ranks;
    slice.num_kv_heads /= ranks;
    slice.intermediate_size /= ranks;
    const Model model = make_model(slice, layers, sample.half, runtime);
    const std::string name =
        fmt::format("forward of {} layers in {} slices, {} x {} tokens", layers, ranks, count, sample.tokens);
    return forward_ms(model, batch_of(question, model, count, sample.tokens), name, runtime, samples);
  };
  const double layer_ms = per_layer(whole_ms(kFew), whole_ms(kMany));
  std::map<int64_t, double> slowdown;
  for (int64_t ranks = 2; config.num_kv_heads % ranks == 0 && config.intermediate_size % ranks == 0; ranks *= 2) {
    const double own_ms = per_layer(slice_ms(ranks, kFew), slice_ms(ranks, kMany));
    slowdown[ranks] = std::max(1.0, own_ms * static_cast<double>(ranks) / layer_ms);
  }
  return slowdown;
}

}  // namespace

planner::MeasuredModel measure_model(const ModelQuestion& question, const Runtime& runtime, Samples& samples) {
  const planner::SampleShape& sample = question.workload.sample;
  const policy::MotConfig config = policy::read_sizes(question.workload.model).llm;
  planner::MeasuredModel out;
  out.half = sample.half;
  out.few = kFew;
  out.many = kMany;
  out.seq = sample.tokens;
  const auto width = static_cast<double>(config.hidden_size);
  out.embed_parameter_mb = 4 * width * static_cast<double>(config.vocab_size) / kMib;
  out.embed_activation_mb = width * static_cast<double>(sample.tokens) * (sample.half ? 2 : 4) / kMib;
  for (const int64_t layers : {kFew, kMany}) {
    const Model model = make_model(config, layers, sample.half, runtime);
    const auto time = [&](int64_t count, int64_t seq) {
      const std::string name = fmt::format("forward of {} layers, {} x {} tokens", layers, count, seq);
      const Batch batch = batch_of(question, model, count, seq);
      out.times.push_back({layers, count, seq, forward_ms(model, batch, name, runtime, samples)});
    };
    for (const int64_t count : question.batches) time(count, sample.tokens);
    for (const int64_t seq : question.lengths) {
      if (seq != sample.tokens) time(1, seq);
    }
    const Batch one = batch_of(question, model, 1, sample.tokens);
    (layers == kFew ? out.with_few : out.with_many) = memory_of(model, one);
  }
  out.slice_slowdown = slice_slowdown(question, config, out.times, runtime, samples);
  return out;
}

}  // namespace unigrpo::cli

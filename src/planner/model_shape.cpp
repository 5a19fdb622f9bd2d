#include "planner/model_shape.h"

#include "base/error.h"
#include "io/json_section.h"
#include "planner/numbers.h"

namespace unigrpo::planner {
namespace {

/// Parameters of one expert of a layer: q and o, k and v, the three matrices of the MLP.
double expert_parameters(const ModelShape& m) {
  const double kv = real(m.hidden) * real(m.kv_heads) / real(m.heads);
  return 2 * real(m.hidden) * real(m.hidden) + 2 * real(m.hidden) * kv + 3 * real(m.hidden) * real(m.intermediate);
}

}  // namespace

ModelShape read_model_shape(const std::filesystem::path& folder) {
  const bool bagel = std::filesystem::exists(folder / "llm_config.json");
  const io::JsonSection in = io::JsonSection::open(folder / (bagel ? "llm_config.json" : "config.json"));
  ModelShape out{.layers = in.integer("num_hidden_layers"),
                 .hidden = in.integer("hidden_size"),
                 .intermediate = in.integer("intermediate_size"),
                 .heads = in.integer("num_attention_heads"),
                 .kv_heads = in.integer("num_key_value_heads", in.integer("num_attention_heads")),
                 .vocab = in.integer("vocab_size"),
                 .experts = bagel ? 2 : 1};
  if (out.hidden % out.heads != 0) {
    throw BadInput("{}: 'num_attention_heads': {} do not divide hidden_size {}", in.where(), out.heads, out.hidden);
  }
  return out;
}

// FLOPs of a sample of s tokens: 2 a weight and token of the one expert that a token uses, and 4 s^2 hidden / 2 of
// causal attention. Bytes kept for the backward pass, a token and layer, in two-byte values: five of the width (norms,
// query, attention's output, its projection), key and value, and three of the MLP's width; recomputing keeps the
// layer's input.
PlannedModel analytic_model(const ModelShape& shape, const SampleShape& sample, double tflops) {
  const double s = real(sample.tokens), hidden = real(shape.hidden), bytes = sample.half ? 2 : 4;
  const double flops = 2 * expert_parameters(shape) * s + 2 * s * s * hidden;
  const double kv = hidden * real(shape.kv_heads) / real(shape.heads);
  PlannedModel out;
  PlannedLayer layer{.count = shape.layers,
                     .hidden = shape.hidden,
                     .seq = sample.tokens,
                     .heads = shape.heads,
                     .kv_heads = shape.kv_heads,
                     .forward_ms = {flops / (tflops * 1e9), 0},
                     .parameter_mb = 4 * expert_parameters(shape) * real(shape.experts) / kMib,
                     .activation_mb = {{1, s * bytes * (5 * hidden + 2 * kv + 3 * real(shape.intermediate)) / kMib}},
                     .checkpoint_mb = s * bytes * hidden / kMib,
                     .trainable = sample.trainable,
                     .experts = shape.experts};
  out.layers.push_back(layer);
  // Embeddings on the first, head and its float32 logits on the last stage.
  const double table_mb = 4 * hidden * real(shape.vocab) / kMib;
  out.embed = {.forward_ms = 0, .parameter_mb = table_mb, .activation_mb = s * bytes * hidden / kMib};
  out.head = {.forward_ms = 2 * hidden * real(shape.vocab) * s / (tflops * 1e9),
              .parameter_mb = table_mb,
              .activation_mb = 4 * s * real(shape.vocab) / kMib};
  out.half = sample.half;
  return out;
}

}  // namespace unigrpo::planner

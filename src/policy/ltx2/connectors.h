#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nn/linear.h"
#include "nn/weights.h"
#include "policy/ltx2/layers.h"
#include "policy/ltx2/transformer.h"

namespace unigrpo::policy::ltx2 {

struct ConnectorConfig {
  int64_t heads = 30, head_dim = 128, num_layers = 2;
  std::optional<int64_t> num_registers = 128;  // learned tokens in the place of padding
  bool gated = false;

  int64_t width() const { return heads * head_dim; }
};

/// config.json of class LTX2TextConnectors.
struct ConnectorsConfig {
  Both<ConnectorConfig> streams = {};
  int64_t caption_channels = 3840, num_text_layers = 49;  // of the text encoder: its width, its hidden states
  bool per_modality_projections = false;                  // 2.3: a projection a stream; 2.0: one, before its connectors
  bool proj_bias = false;
  Both<int64_t> hidden_dim = {.video = 4096, .audio = 2048};
  int64_t rope_base_seq_len = 4096;
  double rope_theta = 10000.0;
  bool rope_double_precision = true, rope_split = false;
};

/// Throws BadInput naming file and key.
ConnectorsConfig read_connectors_config(const std::filesystem::path& file);

/// What the text encoder said: hidden states of all its layers, padded on the left.
struct TextStates {
  at::Tensor hidden;  // [B, L, D, K]
  at::Tensor mask;    // [B, L] int64: 1 where there is text
};

/// What the transformer reads.
struct TextContext {
  Both<at::Tensor> text;  // [B, L, width] each
  at::Tensor mask;        // [B, L] int64; the connectors' is all 1
};

/// From the text encoder's hidden states to the transformer's context (diffusers 0.42.1, LTX2TextConnectors):
/// normalised and projected, then a small transformer a stream, in which learned registers stand behind the text.
class Connectors {
 public:
  Connectors(const ConnectorsConfig& config, nn::Weights& weights);

  const ConnectorsConfig& config() const { return config_; }
  /// L must be a multiple of this.
  int64_t length_multiple() const;

  /// Throws std::invalid_argument for shapes that do not fit.
  TextContext operator()(const TextStates& states) const;

 private:
  struct Layer {
    Attention attn1;
    FeedForward ff;
  };
  struct Connector {
    Connector(const ConnectorConfig& own, const std::string& name, nn::Weights& weights);
    /// x: [B, L, width], mask [B, L].
    at::Tensor operator()(const ConnectorsConfig& all, at::Tensor x, const at::Tensor& mask) const;

    ConnectorConfig config;
    at::Tensor registers;  // [R, width], or undefined
    std::vector<Layer> layers;
  };
  Both<at::Tensor> project(const TextStates& states) const;

  ConnectorsConfig config_;
  std::optional<nn::Linear> project_;            // of both
  std::optional<Both<nn::Linear>> projections_;  // or one each
  Both<Connector> connectors_;
};

}  // namespace unigrpo::policy::ltx2

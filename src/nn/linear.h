#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>

#include "base/rng.h"
#include "nn/weights.h"

namespace unigrpo::nn {

/// A low-rank update of one weight (LoRA, Hu et al., arXiv 2106.09685): W x + scale * B (A x).
struct LoraAdapter {
  at::Tensor a;  // [rank, in]
  at::Tensor b;  // [out, rank], zero at the start
  double scale = 1.0;
};

/// Dropout of adapters' inputs in one forward pass: the mask of a row is a function of the key, the layer's name and
/// the row's number, so that a layer that runs again in the backward pass drops the same, whatever other rows there
/// are.
struct LoraDropout {
  double rate = 0;
  StreamKey key;
  at::Tensor rows = {};         // [T] int64, of x's rows
  int64_t part = 0, parts = 1;  // which of so many equal runs of the whole layer's inputs x has

  /// Of some of the rows.
  LoraDropout narrowed(int64_t first, int64_t count) const {
    return {rate, key, rows.narrow(0, first, count), part, parts};
  }
};

/// y = x W^T + b, with an optional adapter that a switch shared by the whole model turns off. Copies share all three.
struct Linear {
  std::string name;   // official name of the module, e.g. "...self_attn.q_proj"
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out] or undefined
  std::shared_ptr<LoraAdapter> lora;
  const bool* lora_enabled = nullptr;

  /// Whether an adapter adds to it.
  bool adapts() const { return lora && *lora_enabled; }
  /// x: [..., in] -> [..., out]; with dropout [T, in].
  at::Tensor operator()(const at::Tensor& x, const std::optional<LoraDropout>& dropout = std::nullopt) const;
};

/// Takes "<name>.weight" [out, in] and, with `bias`, "<name>.bias" [out].
Linear take_linear(Weights& weights, const std::string& name, int64_t out, int64_t in, bool bias);

}  // namespace unigrpo::nn

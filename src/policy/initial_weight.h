#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "policy/mot_transformer.h"

namespace unigrpo::policy {

/// A fresh float32 weight, keyed by (seed, name): norms 1, biases 0, position tables sine-cosine, llm2vae 0 (the first
/// velocity is 0, as in the official init), convolutions and linears N(0, 1 / fan_in), those that close a residual
/// branch divided by sqrt(2 num_layers), token embeddings N(0, 0.5), lm_head N(0, 0.02), and so embeddings that are
/// tied to it.
at::Tensor initial_weight(const MotConfig& llm, const std::string& name, const std::vector<int64_t>& shape,
                          uint64_t seed);

}  // namespace unigrpo::policy

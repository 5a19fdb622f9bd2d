#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace unigrpo::policy::ltx2 {

/// A new float32 weight of an LTX-2 component, keyed by (seed, component, name): norms and measured deviations 1,
/// biases and measured means 0, linears and convolutions N(0, 1 / fan_in), those that close a residual branch a quarter
/// of that, the transformer's last one 0 (so that its first velocity is 0). Tables of modulations are 0 but for the
/// gates, which are 1, and what t adds to them is small: at first a block is a plain pre-norm one. Embeddings and
/// registers N(0, 1). An autoencoder begins with little noise in its latents, a log-variance of -6, or it learns to do
/// without them; and with biases N(0, 1) where it reads, so that its norms, which divide by what is there, leave loud
/// and quiet apart.
at::Tensor fresh_weight(const std::string& component, const std::string& name, const std::vector<int64_t>& shape,
                        uint64_t seed);

}  // namespace unigrpo::policy::ltx2

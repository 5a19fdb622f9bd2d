#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "policy/block.h"
#include "policy/mot_config.h"
#include "policy/policy.h"

namespace unigrpo::bench {

/// The layers of a Qwen2 or BAGEL model as a plain PyTorch module runs them: one ATen operation after the other on
/// padded batches [B, T, D], `scaled_dot_product_attention` with grouped heads, a cache of fixed size per layer. The
/// policy's own weights.
class Eager {
 public:
  Eager(const policy::UnifiedPolicy& policy, const policy::MotConfig& config);

  /// Keys and values of rows of one length, [B, Hkv, room, Dh] a layer.
  struct Past {
    std::vector<at::Tensor> keys, values;
    int64_t length = 0;
  };
  Past past(int64_t rows, int64_t room) const;

  /// ids: [B, T] after `past`, which grows; causal. Returns the hidden states, [B, T, D].
  at::Tensor read(const at::Tensor& ids, Past& past) const;
  at::Tensor logits(const at::Tensor& hidden) const;
  /// One state of an image a row, [B, L, C] at times [B], after `past`, which stays. boundary: ids, [2].
  at::Tensor velocity(const at::Tensor& latents, const at::Tensor& t, policy::LatentGrid grid,
                      const at::Tensor& boundary, const Past& past) const;
  /// The weights that read() and velocity() use.
  std::vector<at::Tensor> weights() const;

 private:
  const at::Tensor& weight(const std::string& name) const;
  at::Tensor linear(const at::Tensor& x, const std::string& name) const;
  at::Tensor norm(const at::Tensor& x, const std::string& name) const;
  /// Rows before `num_und` of a batch go through one expert, the others through the other.
  template <typename F>
  at::Tensor by_expert(const at::Tensor& x, int64_t num_und, const F& f) const;
  /// `position`: of each token, [T]. Rows before num_und use the understanding weights. `keep`: x's keys and values are
  /// written to `past`.
  at::Tensor layers(at::Tensor x, const at::Tensor& position, int64_t num_und, bool causal, Past& past,
                    bool keep) const;

  policy::MotConfig config_;
  std::unordered_map<std::string, at::Tensor> weights_;
};

}  // namespace unigrpo::bench

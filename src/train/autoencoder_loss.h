#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "base/rng.h"
#include "runtime/runtime.h"

namespace unigrpo::train {

/// Of a batch, the examples that are this rank's: each is one rank's.
struct OwnExamples {
  int64_t first = 0, count = 0, batch = 0;
  /// What means over them count in means over the batch.
  double share() const { return static_cast<double>(count) / static_cast<double>(batch); }
};
OwnExamples own_examples(const Runtime& runtime, int64_t batch);

/// The parts of a variational autoencoder's loss, means over a rank's examples:
///
///   l1 = mean |x - decode(z)|,    mse = mean (x - decode(z))^2
///   z = mean + exp(logvar / 2) n,    kl = mean of (mean^2 + e^logvar - 1 - logvar) / 2, KL(N(mean, e^logvar) || N(0,
///   1))
struct AutoencoderTerms {
  at::Tensor l1, mse, kl;  // of no dimensions
};

/// x: [own.count, ...] inputs; mean, logvar: [own.count, ...] of their posterior. n is that of the whole batch under
/// `noise`, cut to these examples, so that ranks do not change it.
AutoencoderTerms autoencoder_terms(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& logvar,
                                   const std::function<at::Tensor(const at::Tensor&)>& decode, const OwnExamples& own,
                                   const StreamKey& noise);

}  // namespace unigrpo::train

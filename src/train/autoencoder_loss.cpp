#include "train/autoencoder_loss.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "tensor/rng.h"

namespace unigrpo::train {

OwnExamples own_examples(const Runtime& runtime, int64_t batch) {
  const auto [rank, ranks] = std::pair(runtime.mesh.rank, runtime.mesh.world_size);
  const int64_t first = batch * rank / ranks;
  return {.first = first, .count = batch * (rank + 1) / ranks - first, .batch = batch};
}

AutoencoderTerms autoencoder_terms(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& logvar,
                                   const std::function<at::Tensor(const at::Tensor&)>& decode, const OwnExamples& own,
                                   const StreamKey& noise) {
  std::vector<int64_t> sizes = mean.sizes().vec();
  sizes.front() = own.batch;
  const at::Tensor n = tensor::normal(sizes, noise, x.device()).narrow(0, own.first, own.count);
  const at::Tensor error = decode(mean + (0.5 * logvar).exp() * n) - x;
  return {.l1 = error.abs().mean(),
          .mse = error.square().mean(),
          .kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()};
}

}  // namespace unigrpo::train

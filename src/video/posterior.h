#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::video {

/// A Gaussian a latent element, as an autoencoder's encoder gives it.
struct Posterior {
  at::Tensor mean, logvar;  // of one shape; logvar within [-30, 20]
};

}  // namespace unigrpo::video

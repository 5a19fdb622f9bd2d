#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "video/vocoder.h"

namespace unigrpo::video {

/// A front end that has an inverse: the modified cosine transform (Princen and Bradley 1986) in the place of a log-mel
/// spectrogram, whose phases a vocoder would have to make up. Of `hop` cosines a frame the lowest `bins` are kept; the
/// first channel holds the middle (left + right) / 2, the second the side (left - right) / 2.
///
///   X[n, k] = 8 sum_j B[k, j] x[n hop - hop / 2 + j],    j = 0 .. 2 hop - 1
///   B[k, j] = sqrt(2 / hop) sin(pi (j + 1/2) / (2 hop)) cos(pi / hop (j + 1/2 + hop / 2) (k + 1/2))
///
/// wave: [..., 2, samples] -> [..., 2, frames, bins]; beyond its ends the wave is silent.
at::Tensor lapped(const at::Tensor& wave, int64_t frames, int64_t hop, int64_t bins);

/// The weight `name` of a vocoder of class LTX2Vocoder that computes the inverse, x = 1/8 sum over n, k of X B: one
/// upsampling by the hop with a kernel of twice that, leaky_relu_negative_slope 1, two channels. Throws BadInput naming
/// `config_file` for a config that cannot.
at::Tensor lapped_vocoder_weight(const GeneratorConfig& config, const std::string& config_file, const std::string& name,
                                 const std::vector<int64_t>& shape);

}  // namespace unigrpo::video

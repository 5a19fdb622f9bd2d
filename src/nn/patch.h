#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::nn {

/// Cuts feature maps into square patches: [B, C, h * p, w * p] -> [B, h * w, p * p * C], a patch's values ordered
/// (row, column, channel), as the official BAGEL code does for latents and ViT inputs.
at::Tensor patchify(const at::Tensor& map, int64_t patch);

/// The inverse: [B, h * w, p * p * C] -> [B, C, h * p, w * p].
at::Tensor unpatchify(const at::Tensor& tokens, int64_t height, int64_t width, int64_t patch);

/// Position ids of a grid inside a table of `side` x `side`: row * side + column. Returns [height * width] int64.
at::Tensor grid_position_ids(int64_t height, int64_t width, int64_t side, at::Device device = at::kCPU);

/// Fixed 2-D sine-cosine table [side * side, dim]: the first half of the channels encodes the column, the second the
/// row, each as (sin, cos) of position / 10000^(i / (dim / 4)), as MAE (He et al., arXiv 2111.06377) does.
at::Tensor sincos_position_table(int64_t side, int64_t dim);

/// Sinusoidal features of t: [B] -> [B, dim]: (cos, sin) of t * 10000^(-i / (dim / 2)) (DiT, arXiv 2212.09748).
/// t in [0, 1] enters as it is.
at::Tensor timestep_features(const at::Tensor& t, int64_t dim);

}  // namespace unigrpo::nn

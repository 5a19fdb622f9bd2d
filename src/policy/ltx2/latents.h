#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace unigrpo::policy::ltx2 {

/// Video latents as tokens, order frame, row, column: [B, C, F, H, W] -> [B, F H W, C].
at::Tensor pack_video(const at::Tensor& latents);
/// The inverse.
at::Tensor unpack_video(const at::Tensor& tokens, int64_t frames, int64_t height, int64_t width);

/// Audio latents as tokens, a token a frame, its numbers channel by channel: [B, C, T, M] -> [B, T, C M].
at::Tensor pack_audio(const at::Tensor& latents);
/// The inverse; `bins` is M.
at::Tensor unpack_audio(const at::Tensor& tokens, int64_t bins);

}  // namespace unigrpo::policy::ltx2

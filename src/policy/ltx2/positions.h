#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/rotary.h"

namespace unigrpo::policy::ltx2 {

/// Latents of a clip: frames x height x width of video, frames of audio.
struct ClipGrid {
  int64_t frames = 1, height = 1, width = 1;
  int64_t audio_frames = 1;
  double fps = 24.0;  // of the pixels' frames

  int64_t video_tokens() const { return frames * height * width; }
};

/// Angles of the positions of one stream: pair j of a token's `2 P` numbers is turned by (cos, sin)[token, j].
/// split: the pairs are (r, r + half) within each of `heads` heads, of which head h has the angles of h * half on;
/// interleaved: neighbours, over the whole width.
struct Angles {
  at::Tensor cos, sin;  // [S, P] float32
  int64_t heads = 1;
  bool split = true;

  /// Both as diffusers lays them out: split [1, heads, S, P / heads], interleaved [1, S, 2 P].
  at::Tensor cos_table() const { return table(cos); }
  at::Tensor sin_table() const { return table(sin); }

 private:
  at::Tensor table(const at::Tensor& values) const;
};

struct AngleConfig {
  int64_t dim = 0;     // 2 P
  int64_t heads = 1;   // of split
  bool split = false;  // else interleaved
  double theta = 10000.0;
  bool double_precision = true;  // of the powers of theta, which are float32 afterwards
};

/// Start and end of every video patch, order frame, row, column: [1, 3, S, 2] float32 in seconds, pixels, pixels. A
/// latent frame is `time_scale` frames long, but the first `causal_offset`.
struct VideoScale {
  int64_t time = 8, height = 32, width = 32;
  int64_t causal_offset = 1;
};
at::Tensor video_coords(const ClipGrid& grid, const VideoScale& scale);

/// Start and end of every audio latent: [1, 1, T, 2] float32 seconds, by the same rule, in frames of `hop` samples.
struct AudioScale {
  int64_t time = 4;
  int64_t causal_offset = 1;
  int64_t hop = 160, rate = 16000;
};
at::Tensor audio_coords(int64_t frames, const AudioScale& scale);

/// coords: [1, A, S, 2], limits: one an axis. The middle of each patch over its limit, mapped to [-1, 1], times
/// theta^(i / (n - 1)) pi / 2 for n = dim / (2 A) frequencies, axes fastest; the dim / 2 - A n pairs that are left over
/// stand in front and do not turn. In float32 step by step as published: angles reach 15,708, where another order of
/// the same steps gives another table (LTX-2, arXiv 2601.03233; diffusers 0.42.1, LTX2AudioVideoRotaryPosEmbed).
Angles angles_of(const at::Tensor& coords, const std::vector<double>& limits, const AngleConfig& config);

/// The same of 0, 1, ... num - 1 over `base`: the connectors' (LTX2RotaryPosEmbed1d).
Angles angles_of_sequence(int64_t num, int64_t base, const AngleConfig& config);

/// Angles laid out for a batch, once for all layers.
class Rotation {
 public:
  Rotation(const Angles& angles, int64_t batch, at::Device device);
  /// x: [B, S, 2 P] -> the same, turned in float32.
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  int64_t half_;                // split: pairs a head
  kernels::RotaryTable table_;  // split: [B S heads, half]; interleaved: [S, P]
  bool split_;
};

}  // namespace unigrpo::policy::ltx2

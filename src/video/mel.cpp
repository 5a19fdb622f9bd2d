#include "video/mel.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <stdexcept>
#include <vector>

#include "tensor/shape.h"

namespace unigrpo::video {
namespace {

// Slaney's scale (Auditory Toolbox, 1998): linear below 1 kHz, 15 mel, then 27 steps for a factor of 6.4.
constexpr double kLinearHz = 200.0 / 3.0, kCornerHz = 1000.0, kCornerMel = kCornerHz / kLinearHz;
const double kLogStep = std::log(6.4) / 27.0;

double to_mel(double hz) { return hz < kCornerHz ? hz / kLinearHz : kCornerMel + std::log(hz / kCornerHz) / kLogStep; }
double to_hz(double mel) {
  return mel < kCornerMel ? mel * kLinearHz : kCornerHz * std::exp(kLogStep * (mel - kCornerMel));
}

}  // namespace

at::Tensor mel_bank(const MelConfig& config) {
  const int64_t num_freqs = config.n_fft / 2 + 1;
  const double top = static_cast<double>(config.sample_rate) / 2;
  std::vector<double> corners;  // left, middle, right of band m are m, m + 1, m + 2
  for (int64_t i = 0; i < config.num_bins + 2; ++i) {
    corners.push_back(to_hz(to_mel(top) * static_cast<double>(i) / static_cast<double>(config.num_bins + 1)));
  }
  at::Tensor bank = at::zeros({num_freqs, config.num_bins});
  auto cells = bank.accessor<float, 2>();
  for (int64_t f = 0; f < num_freqs; ++f) {
    const double hz = top * static_cast<double>(f) / static_cast<double>(num_freqs - 1);
    for (int64_t m = 0; m < config.num_bins; ++m) {
      const double up = (hz - corners[m]) / (corners[m + 1] - corners[m]);
      const double down = (corners[m + 2] - hz) / (corners[m + 2] - corners[m + 1]);
      const double height = 2.0 / (corners[m + 2] - corners[m]);
      cells[f][m] = static_cast<float>(std::max(0.0, std::min(up, down)) * height);
    }
  }
  return bank;
}

at::Tensor log_mel(const at::Tensor& wave, const MelConfig& config) {
  constexpr double kFloor = 1e-5;
  const int64_t samples = wave.size(-1);
  if (samples <= config.n_fft / 2) {
    throw std::invalid_argument(fmt::format("log_mel: {} samples are too few for n_fft {}", samples, config.n_fft));
  }
  const at::Tensor rows = tensor::at_least_float32(wave).reshape({-1, samples});
  const at::Tensor window = at::hann_window(config.n_fft, rows.options());  // periodic
  const at::Tensor spectrum = at::stft(rows, config.n_fft, config.hop_length, config.n_fft, window, /*center=*/true,
                                       "reflect", /*normalized=*/false, /*onesided=*/true, /*return_complex=*/true);
  const at::Tensor mel = at::matmul(spectrum.abs().transpose(1, 2), mel_bank(config).to(rows.options()));
  std::vector<int64_t> shape(wave.sizes().begin(), wave.sizes().end() - 1);
  shape.insert(shape.end(), {mel.size(1), config.num_bins});
  return mel.clamp_min(kFloor).log().view(shape);
}

}  // namespace unigrpo::video

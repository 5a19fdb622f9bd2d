#include "policy/ltx2/clip_tensors.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "video/lapped.h"
#include "video/mel.h"

namespace unigrpo::policy::ltx2 {
namespace {

void check_clip(const media::Clip& clip, const Model& model) {
  const video::VideoVaeConfig& vae = model.vae().config();
  const video::AudioVaeConfig& audio = model.audio_vae().config();
  const auto& [frames, fps, sound] = clip;
  if (frames.count < 1 || (frames.count - 1) % vae.temporal_ratio != 0 || frames.height % vae.spatial_ratio != 0 ||
      frames.width % vae.spatial_ratio != 0) {
    throw BadInput(
        "a clip of {} frames of {} x {} pixels; {} takes 1 + a multiple of {} frames and sides of multiples of {}",
        frames.count, frames.height, frames.width, model.folder().string(), vae.temporal_ratio, vae.spatial_ratio);
  }
  if (sound.channels != audio.in_channels || sound.rate != audio.sample_rate) {
    throw BadInput("a sound of {} channels at {} Hz; {} takes {} at {} Hz", sound.channels, sound.rate,
                   model.folder().string(), audio.in_channels, audio.sample_rate);
  }
}

}  // namespace

ClipTensors clip_tensors(std::span<const media::Clip> clips, const Model& model) {
  const video::AudioVaeConfig& audio = model.audio_vae().config();
  std::vector<at::Tensor> frames, waves;
  int64_t latents = 0;
  for (const media::Clip& clip : clips) {
    check_clip(clip, model);
    const media::Frames& f = clip.frames;
    const at::Tensor pixels = at::from_blob(const_cast<uint8_t*>(f.pixels.data()), {f.count, f.height, f.width, 3},
                                            at::TensorOptions(at::kByte));
    frames.push_back(pixels.permute({3, 0, 1, 2}).to(at::kFloat) / 127.5 - 1);
    const media::Sound& s = clip.sound;
    waves.push_back(
        at::from_blob(const_cast<float*>(s.samples.data()), {s.channels, s.length()}, at::TensorOptions(at::kFloat))
            .clone());
    const double seconds = static_cast<double>(f.count) / clip.fps.value();
    latents = std::max<int64_t>(1, std::llround(seconds * audio.latents_per_second()));
  }
  // 4 T - 3 frames of the front end: the first latent is of one, the others of four each.
  const int64_t count = latents * video::AudioVaeConfig::kRatio - (video::AudioVaeConfig::kRatio - 1);
  const at::Tensor wave = at::stack(waves);
  constexpr int64_t kWindow = 1024;
  at::Tensor sound;
  if (audio.lapped) {
    sound = video::lapped(wave, count, audio.mel_hop_length, audio.mel_bins);
  } else {
    const at::Tensor mel = video::log_mel(wave, {.sample_rate = audio.sample_rate,
                                                 .n_fft = kWindow,
                                                 .hop_length = audio.mel_hop_length,
                                                 .num_bins = audio.mel_bins});
    sound = mel.narrow(2, 0, std::min(count, mel.size(2)));
  }
  const auto& weight = model.part("vae").front().tensor;
  return {.frames = at::stack(frames).to(weight.options()), .sound = sound.to(weight.options())};
}

}  // namespace unigrpo::policy::ltx2

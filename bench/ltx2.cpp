// Seconds of an LTX-2 folder's parts on the CPU: a forward, a forward with its backward, a walk of 8 steps, decoding.
//
// usage: bench_ltx2 FOLDER [--repeats N]    FOLDER: what bench/ltx2_peer.py wrote, which measures diffusers on it
//
// Clips are those of the embedded audio-video world: 17 frames of 32 x 32 at 16 fps, 27 audio latents. Best of the
// repeats, one thread or as many as OMP_NUM_THREADS says.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <string>

#include "flow/shifted_grid.h"
#include "policy/ltx2/model.h"
#include "rollout/clip_sampler.h"

namespace {

using namespace unigrpo;
constexpr policy::ltx2::ClipGrid kClip{.frames = 9, .height = 4, .width = 4, .audio_frames = 27, .fps = 16.0};
constexpr int64_t kTextLength = 16;

double best_of(int repeats, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::infinity();
  work();  // warm-up
  for (int i = 0; i < repeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

void print(const std::string& what, double seconds) { fmt::print("{:<44} {:>9.1f} ms\n", what, seconds * 1e3); }

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: bench_ltx2 FOLDER [--repeats N]\n");
    return 2;
  }
  const int repeats = argc == 4 ? std::atoi(argv[3]) : 5;
  const auto model = policy::ltx2::Model::load(argv[1]);
  const auto& transformer = model->transformer();
  const auto& c = transformer.config();
  const auto places = transformer.positions(kClip);
  const auto inputs = [&](int64_t batch) {
    const auto& s = c.streams;
    const at::Tensor t = at::full({batch}, 500.0);
    return policy::ltx2::TransformerInputs{
        .latents = {.video = at::randn({batch, kClip.video_tokens(), s.video.in_channels}),
                    .audio = at::randn({batch, kClip.audio_frames, s.audio.in_channels})},
        .text = {.video = at::randn({batch, kTextLength, s.video.context_dim}),
                 .audio = at::randn({batch, kTextLength, s.audio.context_dim})},
        .text_mask = at::ones({batch, kTextLength}),
        .timestep = {.video = t, .audio = t}};
  };
  const auto in = inputs(16);
  {
    const at::NoGradGuard no_grad;
    print("forward, 16 clips", best_of(repeats, [&] { transformer(in, places); }));
    const auto many = inputs(64);
    const auto sigmas = flow::shifted_grid(model->grid(), 8, kClip.video_tokens());
    const rollout::ClipRequest request{
        .noise = many.latents, .text = {.text = many.text, .mask = many.text_mask}, .grid = kClip, .sigmas = sigmas};
    print("64 clips x 8 steps",
          best_of(std::max(1, repeats / 2), [&] { rollout::sample_clips(transformer, request); }));
    const at::Tensor video = at::randn({4, c.streams.video.in_channels, kClip.frames, kClip.height, kClip.width});
    const auto& a = model->audio_vae().config();
    const at::Tensor audio = at::randn({4, a.latent_channels, kClip.audio_frames, a.latent_mel_bins()});
    print("decode 4 videos", best_of(repeats, [&] { model->vae().decode(video); }));
    print("decode 4 sounds", best_of(repeats, [&] { model->vocoder()(model->audio_vae().decode(audio)); }));
  }
  for (const NamedTensor& weight : model->part("transformer")) at::Tensor(weight.tensor).requires_grad_();
  print("forward and backward, 16 clips", best_of(repeats, [&] {
          const auto out = transformer(in, places);
          (out.video.square().mean() + out.audio.square().mean()).backward();
        }));
  return 0;
}

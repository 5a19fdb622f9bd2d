#include "rollout/clip_sampler.h"

#include <ATen/ATen.h>

#include <stdexcept>
#include <utility>

#include "flow/ode_step.h"

namespace unigrpo::rollout {
namespace {

using flow::CleanEstimates;
using policy::ltx2::Both;
using policy::ltx2::TextContext;
using policy::ltx2::TransformerInputs;

constexpr double kTrainTimesteps = 1000;

/// What one step's evaluations share.
struct Step {
  const policy::ltx2::Transformer& transformer;
  const policy::ltx2::ClipPositions& positions;
  const Both<at::Tensor>& latents;
  double sigma;
  bool cross_timestep;

  Both<at::Tensor> clean(const TextContext& text, bool isolated = false,
                         const std::vector<int64_t>& perturbed = {}) const {
    const at::Tensor t =
        at::full({latents.video.size(0)}, sigma * kTrainTimesteps, latents.video.options().dtype(at::kFloat));
    const Both<at::Tensor> v = transformer({.latents = latents,
                                            .text = text.text,
                                            .text_mask = text.mask,
                                            .timestep = {.video = t, .audio = t},
                                            .sigma = {.video = t, .audio = t},
                                            .cross_timestep = cross_timestep,
                                            .isolated = isolated,
                                            .perturbed_blocks = perturbed},
                                           positions);
    return {.video = flow::clean_estimate(latents.video, v.video, sigma),
            .audio = flow::clean_estimate(latents.audio, v.audio, sigma)};
  }
};

Both<at::Tensor> guided(const Step& step, const ClipRequest& request) {
  const flow::CleanGuidance &gv = request.guidance.streams.video, &ga = request.guidance.streams.audio;
  Both<CleanEstimates> e;
  const auto keep = [&](at::Tensor CleanEstimates::*which, Both<at::Tensor> estimate) {
    e.video.*which = std::move(estimate.video);
    e.audio.*which = std::move(estimate.audio);
  };
  keep(&CleanEstimates::conditional, step.clean(request.text));
  if (gv.needs_negative() || ga.needs_negative()) {
    if (!request.negative) throw std::invalid_argument("sample_clips: guidance by text needs a negative text");
    keep(&CleanEstimates::negative, step.clean(*request.negative));
  }
  if (gv.needs_perturbed() || ga.needs_perturbed()) {
    keep(&CleanEstimates::perturbed, step.clean(request.text, false, request.guidance.perturbed_blocks));
  }
  if (gv.needs_isolated() || ga.needs_isolated()) {
    keep(&CleanEstimates::isolated, step.clean(request.text, /*isolated=*/true));
  }
  return {.video = flow::guide_clean(gv, e.video), .audio = flow::guide_clean(ga, e.audio)};
}

}  // namespace

std::optional<Both<at::Tensor>> sample_clips(const policy::ltx2::Transformer& transformer, const ClipRequest& request,
                                             StopToken stop, const std::function<void(const ClipStep&)>& seen) {
  const at::NoGradGuard no_grad;
  const auto positions = transformer.positions(request.grid);
  Both<at::Tensor> latents{.video = request.noise.video.to(at::kFloat), .audio = request.noise.audio.to(at::kFloat)};
  for (size_t i = 0; i + 1 < request.sigmas.size(); ++i) {
    if (stop.requested()) return std::nullopt;
    const double sigma = request.sigmas[i], next = request.sigmas[i + 1];
    const Both<at::Tensor> clean = guided({.transformer = transformer,
                                           .positions = positions,
                                           .latents = latents,
                                           .sigma = sigma,
                                           .cross_timestep = request.cross_timestep},
                                          request);
    const auto stepped = [&](const at::Tensor& x, const at::Tensor& x0) {
      return flow::ode_step(x, flow::velocity_of(x, x0, sigma), sigma, next);
    };
    latents = {.video = stepped(latents.video, clean.video), .audio = stepped(latents.audio, clean.audio)};
    if (seen) seen({.index = static_cast<int64_t>(i), .clean = clean, .latents = latents});
  }
  return latents;
}

}  // namespace unigrpo::rollout

#include "rollout/flow_sampler.h"

#include <ATen/ATen.h>

#include "base/fault.h"
#include "flow/guidance.h"
#include "flow/ode_step.h"
#include "flow/sde_step.h"
#include "tensor/rng.h"

namespace unigrpo::rollout {
namespace {

StreamKey with_purpose(StreamKey key, Purpose purpose) {
  key.purpose = purpose;
  return key;
}

}  // namespace

std::vector<FlowSegment> denoise(policy::ImagePolicy& policy, const RolloutConfig& config,
                                 std::span<const DenoiseRequest> rows, policy::LatentGrid grid,
                                 const flow::GuidanceConfig& guidance, StopToken stop) {
  const at::NoGradGuard no_grad;
  const auto b = static_cast<int64_t>(rows.size());
  const int64_t l = grid.num_tokens(), c = policy.latent_channels();
  const std::vector<double> times = flow::time_grid(config.num_steps, config.timestep_shift);

  std::vector<FlowSegment> segments(rows.size());
  std::vector<at::Tensor> initial, noise(rows.size());
  for (int64_t i = 0; i < b; ++i) {
    initial.push_back(tensor::normal({l, c}, with_purpose(rows[i].key, Purpose::initial_noise)));
    const int64_t s = rows[i].window.width();
    noise[i] = tensor::normal({s, l, c}, with_purpose(rows[i].key, Purpose::sde_noise));
    segments[i] = {.timesteps = times,
                   .window = rows[i].window,
                   .streams = {{.grid = grid,
                                .latents = at::empty({s + 1, l, c}),
                                .velocities = at::empty({s, l, c}),
                                .log_probs = at::empty({s}),
                                .final_latent = {}}}};
  }
  at::Tensor x = at::stack(initial);  // [B, L, C]
  auto denoiser_of = [&](const policy::Context* DenoiseRequest::*context) {
    std::vector<const policy::Context*> contexts;
    for (const DenoiseRequest& row : rows) contexts.push_back(row.*context);
    return policy.denoise(contexts, grid);
  };
  const auto conditional = denoiser_of(&DenoiseRequest::context);
  const bool guided = guidance.text_scale > 1, by_image = guided && guidance.image_scale > 1;
  const auto without_text = guided ? denoiser_of(&DenoiseRequest::without_text) : nullptr;
  const auto without_image = by_image ? denoiser_of(&DenoiseRequest::without_image) : nullptr;

  for (int64_t step = 0; step < config.num_steps; ++step) {
    if (stop.requested()) return {};
    fault::point("rollout.denoising_step");
    const double t = times[step], t_next = times[step + 1];
    const at::Tensor at_t = at::full({b}, t, at::kFloat);
    at::Tensor velocity = conditional->velocity(x, at_t);
    if (guided && flow::guidance_acts(guidance, t)) {
      velocity = flow::guide(guidance, {.conditional = velocity,
                                        .without_text = without_text->velocity(x, at_t),
                                        .without_image = by_image ? without_image->velocity(x, at_t) : at::Tensor()});
    }
    at::Tensor next = flow::ode_step(x, velocity, t, t_next);
    std::vector<int64_t> stochastic;
    std::vector<at::Tensor> drawn;
    for (int64_t i = 0; i < b; ++i) {
      if (!rows[i].window.contains(step)) continue;
      stochastic.push_back(i);
      drawn.push_back(noise[i][step - rows[i].window.first]);
    }
    if (!stochastic.empty()) {
      const at::Tensor index = at::tensor(stochastic, at::kLong);
      const flow::SdeStep moved =
          flow::sde_step(config.sde, x.index_select(0, index), velocity.index_select(0, index), at::stack(drawn),
                         flow::TimeSpan{.t = t, .t_next = t_next, .t_max = times[1]});
      next.index_copy_(0, index, moved.x_next);
      for (size_t k = 0; k < stochastic.size(); ++k) {
        FlowStream& stream = segments[stochastic[k]].stream();
        const int64_t s = step - rows[stochastic[k]].window.first;
        stream.latents[s].copy_(x[stochastic[k]]);
        stream.latents[s + 1].copy_(moved.x_next[static_cast<int64_t>(k)]);
        stream.velocities[s].copy_(velocity[stochastic[k]]);
        stream.log_probs[s].copy_(moved.log_prob[static_cast<int64_t>(k)]);
      }
    }
    x = next;
  }
  for (int64_t i = 0; i < b; ++i) segments[i].stream().final_latent = x[i].clone();
  return segments;
}

}  // namespace unigrpo::rollout

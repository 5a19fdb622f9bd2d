#include "rollout/flow_sampler.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/fault.h"
#include "flow/guidance.h"
#include "flow/ode_step.h"
#include "flow/sde_step.h"
#include "runtime/ranks.h"
#include "tensor/convert.h"
#include "tensor/device.h"
#include "tensor/rng.h"
#include "tensor/spoil.h"

namespace unigrpo::rollout {
namespace {

StreamKey with_purpose(StreamKey key, Purpose purpose) {
  key.purpose = purpose;
  return key;
}

/// The rows that are stochastic at a step.
struct Stochastic {
  std::vector<int64_t> rows;
  at::Tensor index;  // the same, on the device
};

/// Of each step; sent over before the first one, so that nothing is copied between steps.
std::vector<Stochastic> stochastic_rows(std::span<const DenoiseRequest> rows, int64_t num_steps, at::Device device) {
  std::vector<Stochastic> steps(num_steps);
  std::vector<at::Tensor*> indices;
  for (int64_t step = 0; step < num_steps; ++step) {
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].window.contains(step)) steps[step].rows.push_back(static_cast<int64_t>(i));
    }
    steps[step].index = tensor::index_tensor(steps[step].rows);
    indices.push_back(&steps[step].index);
  }
  tensor::send_together(indices, device);
  return steps;
}

}  // namespace

std::vector<FlowSegment> denoise(policy::ImagePolicy& policy, const RolloutConfig& config,
                                 std::span<const DenoiseRequest> rows, policy::LatentGrid grid,
                                 const flow::GuidanceConfig& guidance, const Runtime& runtime) {
  const at::NoGradGuard no_grad;
  const auto b = static_cast<int64_t>(rows.size());
  const int64_t l = grid.num_tokens(), c = policy.latent_channels();
  const std::vector<double> times = flow::time_grid(config.num_steps, config.timestep_shift);

  int64_t most = 0;  // stochastic steps of a row
  for (const DenoiseRequest& row : rows) most = std::max(most, row.window.width());
  const at::Device device = policy.device();
  const auto options = at::TensorOptions(at::kFloat).device(device);
  std::vector<at::Tensor> initial, noise;
  for (const DenoiseRequest& row : rows) {
    initial.push_back(tensor::normal({l, c}, with_purpose(row.key, Purpose::initial_noise), device));
    noise.push_back(tensor::normal({row.window.width(), l, c}, with_purpose(row.key, Purpose::sde_noise), device));
  }
  at::Tensor x = at::stack(initial);  // [B, L, C]
  const at::Tensor latents = at::empty({b, most + 1, l, c}, options), velocities = at::empty({b, most, l, c}, options),
                   log_probs = at::empty({b, most}, options);
  const std::vector<Stochastic> stochastic = stochastic_rows(rows, config.num_steps, device);
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
    if (stop_before_pass(runtime)) return {};
    fault::point("rollout.denoising_step");
    const double t = times[step], t_next = times[step + 1];
    const at::Tensor at_t = at::full({b}, t, options);
    at::Tensor velocity = conditional->velocity(x, at_t);
    if (guided && flow::guidance_acts(guidance, t)) {
      velocity = flow::guide(guidance, {.conditional = velocity,
                                        .without_text = without_text->velocity(x, at_t),
                                        .without_image = by_image ? without_image->velocity(x, at_t) : at::Tensor()});
    }
    at::Tensor next = flow::ode_step(x, velocity, t, t_next);
    if (const Stochastic& moving = stochastic[step]; !moving.rows.empty()) {
      std::vector<at::Tensor> drawn;
      for (const int64_t i : moving.rows) drawn.push_back(noise[i][step - rows[i].window.first]);
      const flow::SdeStep moved =
          flow::sde_step(config.sde, x.index_select(0, moving.index), velocity.index_select(0, moving.index),
                         at::stack(drawn), flow::TimeSpan{.t = t, .t_next = t_next, .t_max = times[1]});
      next.index_copy_(0, moving.index, moved.x_next);
      for (size_t k = 0; k < moving.rows.size(); ++k) {
        const int64_t i = moving.rows[k], s = step - rows[i].window.first;
        latents[i][s].copy_(x[i]);
        latents[i][s + 1].copy_(moved.x_next[static_cast<int64_t>(k)]);
        velocities[i][s].copy_(velocity[i]);
        log_probs[i][s].copy_(moved.log_prob[static_cast<int64_t>(k)]);
      }
    }
    x = next;
    tensor::spoil("rollout.latent", x);
  }
  const at::Tensor home_latents = latents.cpu(), home_velocities = velocities.cpu(), home_log_probs = log_probs.cpu(),
                   home_final = x.cpu();
  std::vector<FlowSegment> segments;
  for (int64_t i = 0; i < b; ++i) {
    const int64_t s = rows[i].window.width();
    segments.push_back({.timesteps = times,
                        .window = rows[i].window,
                        .streams = {{.grid = grid,
                                     .latents = home_latents[i].narrow(0, 0, s + 1),
                                     .velocities = home_velocities[i].narrow(0, 0, s),
                                     .log_probs = home_log_probs[i].narrow(0, 0, s),
                                     .final_latent = home_final[i]}}});
  }
  return segments;
}

}  // namespace unigrpo::rollout

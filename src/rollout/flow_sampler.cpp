#include "rollout/flow_sampler.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "base/fault.h"
#include "base/hash.h"
#include "flow/guidance.h"
#include "flow/ode_step.h"
#include "flow/sde_step.h"
#include "rollout/rules.h"
#include "runtime/ranks.h"
#include "tensor/convert.h"
#include "tensor/device.h"
#include "tensor/rng.h"
#include "tensor/spoil.h"

namespace unigrpo::rollout {
namespace {

/// A row's key and the steps in which it moves: of the segment, and of each stream.
struct WalkRow {
  StreamKey key;
  flow::SdeWindow window;
  std::vector<flow::SdeWindow> own;  // [streams]
};

/// What of a walk is one stream's.
struct StreamPlan {
  std::string modality;
  policy::LatentGrid grid;
  int64_t channels = 0;
  std::optional<flow::SdeConfig> sde;  // none: an ODE all the way
  uint64_t key = 0;                    // of its noise
};

/// The rows that are stochastic at a step.
struct Stochastic {
  std::vector<int64_t> rows;
  at::Tensor index;  // the same, on the device
};

/// Of each step; sent over before the first one, so that nothing is copied between steps.
std::vector<Stochastic> stochastic_rows(std::span<const WalkRow> rows, size_t stream, int64_t num_steps,
                                        at::Device device) {
  std::vector<Stochastic> steps(num_steps);
  std::vector<at::Tensor*> indices;
  for (int64_t step = 0; step < num_steps; ++step) {
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].own[stream].contains(step)) steps[step].rows.push_back(static_cast<int64_t>(i));
    }
    steps[step].index = tensor::index_tensor(steps[step].rows);
    indices.push_back(&steps[step].index);
  }
  tensor::send_together(indices, device);
  return steps;
}

/// The latents of one stream of all rows on their way, and what is kept of it.
class Stream {
 public:
  Stream(const StreamPlan& plan, std::span<const WalkRow> rows, size_t index, int64_t num_steps, at::Device device)
      : plan_(plan), rows_(rows), index_(index), stochastic_(stochastic_rows(rows, index, num_steps, device)) {
    const auto b = static_cast<int64_t>(rows.size());
    const int64_t l = plan.grid.num_tokens(), c = plan.channels;
    int64_t most = 0;  // stochastic steps of a row
    for (const WalkRow& row : rows) most = std::max(most, row.window.width());
    std::vector<at::Tensor> initial;
    for (const WalkRow& row : rows) {
      StreamKey key = row.key;
      key.stream = plan.key;
      key.purpose = Purpose::initial_noise;
      initial.push_back(tensor::normal({l, c}, key, device));
      key.purpose = Purpose::sde_noise;
      noise_.push_back(tensor::normal({row.own[index].width(), l, c}, key, device));
    }
    x = at::stack(initial);
    const auto options = at::TensorOptions(at::kFloat).device(device);
    latents_ = at::empty({b, most + 1, l, c}, options);
    velocities_ = at::empty({b, most, l, c}, options);
    log_probs_ = at::zeros({b, most}, options);
  }

  /// From `times[step]` to the next one.
  void move(int64_t step, const std::vector<double>& times, const at::Tensor& velocity) {
    const double t = times[step], t_next = times[step + 1];
    at::Tensor next = flow::ode_step(x, velocity, t, t_next);
    const Stochastic& moving = stochastic_[step];
    if (!moving.rows.empty()) {
      std::vector<at::Tensor> drawn;
      for (const int64_t i : moving.rows) drawn.push_back(noise_[i][step - rows_[i].own[index_].first]);
      const flow::SdeStep moved =
          flow::sde_step(*plan_.sde, x.index_select(0, moving.index), velocity.index_select(0, moving.index),
                         at::stack(drawn), flow::TimeSpan{.t = t, .t_next = t_next, .t_max = times[1]});
      next.index_copy_(0, moving.index, moved.x_next);
      for (size_t k = 0; k < moving.rows.size(); ++k) {
        const int64_t i = moving.rows[k];
        log_probs_[i][step - rows_[i].window.first].copy_(moved.log_prob[static_cast<int64_t>(k)]);
      }
    }
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (!rows_[i].window.contains(step)) continue;
      const auto row = static_cast<int64_t>(i);
      const int64_t s = step - rows_[i].window.first;
      latents_[row][s].copy_(x[row]);
      latents_[row][s + 1].copy_(next[row]);
      velocities_[row][s].copy_(velocity[row]);
    }
    x = next;
    tensor::spoil("rollout.latent", x);
  }

  /// [rows], on the host.
  std::vector<FlowStream> finish() const {
    const at::Tensor latents = latents_.cpu(), velocities = velocities_.cpu(), log_probs = log_probs_.cpu(),
                     last = x.cpu();
    std::vector<FlowStream> streams;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const auto row = static_cast<int64_t>(i);
      const flow::SdeWindow &all = rows_[i].window, &own = rows_[i].own[index_];
      const bool alike = own.first == all.first && own.last == all.last;
      streams.push_back({.modality = plan_.modality,
                         .grid = plan_.grid,
                         .window = alike ? std::nullopt : std::optional(own),
                         .latents = latents[row].narrow(0, 0, all.width() + 1),
                         .velocities = velocities[row].narrow(0, 0, all.width()),
                         .log_probs = log_probs[row].narrow(0, 0, all.width()),
                         .final_latent = last[row]});
    }
    return streams;
  }

  at::Tensor x;  // [B, L, C]

 private:
  const StreamPlan& plan_;
  std::span<const WalkRow> rows_;
  size_t index_;
  std::vector<at::Tensor> noise_;       // [B] of [its steps, L, C]
  std::vector<Stochastic> stochastic_;  // [N]
  at::Tensor latents_, velocities_, log_probs_;
};

/// The velocities of all streams at a time of the grid.
using Field = std::function<std::vector<at::Tensor>(std::span<const at::Tensor> x, double t)>;

std::vector<FlowSegment> walk(std::span<const WalkRow> rows, std::span<const StreamPlan> plans,
                              const std::vector<double>& times, const Field& field, const Runtime& runtime,
                              at::Device device) {
  const auto num_steps = static_cast<int64_t>(times.size()) - 1;
  std::vector<Stream> streams;
  for (size_t m = 0; m < plans.size(); ++m) streams.emplace_back(plans[m], rows, m, num_steps, device);
  for (int64_t step = 0; step < num_steps; ++step) {
    if (stop_before_pass(runtime)) return {};
    fault::point("rollout.denoising_step");
    std::vector<at::Tensor> x;
    for (const Stream& stream : streams) x.push_back(stream.x);
    const std::vector<at::Tensor> velocities = field(x, times[step]);
    for (size_t m = 0; m < streams.size(); ++m) streams[m].move(step, times, velocities[m]);
  }
  std::vector<FlowSegment> segments(rows.size());
  for (const Stream& stream : streams) {
    std::vector<FlowStream> of_rows = stream.finish();
    for (size_t i = 0; i < rows.size(); ++i) segments[i].streams.push_back(std::move(of_rows[i]));
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    segments[i].timesteps = times;
    segments[i].window = rows[i].window;
  }
  return segments;
}

/// The steps in which a clip's streams move, where the video's window is `video`.
WalkRow clip_row(const RolloutConfig& config, const DenoiseRequest& request, std::span<const StreamPlan> plans) {
  WalkRow row{.key = request.key, .window = {}, .own = {}};
  for (const StreamPlan& plan : plans) {
    flow::SdeWindow own = request.window;
    if (!plan.sde || own.width() == 0) {
      row.own.emplace_back();
      continue;
    }
    const int64_t offset = plan.modality == "audio" ? config.audio_window_offset : 0;
    own = {.first = own.first + offset, .last = own.last + offset};
    row.own.push_back(own);
    if (row.window.width() == 0) row.window = own;
    row.window = {.first = std::min(row.window.first, own.first), .last = std::max(row.window.last, own.last)};
  }
  return row;
}

}  // namespace

std::vector<FlowSegment> denoise(policy::ImagePolicy& policy, const RolloutConfig& config,
                                 std::span<const DenoiseRequest> rows, policy::LatentGrid grid,
                                 const flow::GuidanceConfig& guidance, const Runtime& runtime) {
  const at::NoGradGuard no_grad;
  const auto b = static_cast<int64_t>(rows.size());
  const at::Device device = policy.device();
  const auto options = at::TensorOptions(at::kFloat).device(device);
  const StreamPlan plan{
      .modality = "image", .grid = grid, .channels = policy.latent_channels(), .sde = config.sde, .key = 0};
  std::vector<WalkRow> walked;
  for (const DenoiseRequest& row : rows) walked.push_back({row.key, row.window, {row.window}});
  auto denoiser_of = [&](const policy::Context* DenoiseRequest::*context) {
    std::vector<const policy::Context*> contexts;
    for (const DenoiseRequest& row : rows) contexts.push_back(row.*context);
    return policy.denoise(contexts, grid);
  };
  const auto conditional = denoiser_of(&DenoiseRequest::context);
  const bool guided = guidance.text_scale > 1, by_image = guided && guidance.image_scale > 1;
  const auto without_text = guided ? denoiser_of(&DenoiseRequest::without_text) : nullptr;
  const auto without_image = by_image ? denoiser_of(&DenoiseRequest::without_image) : nullptr;
  const Field field = [&](std::span<const at::Tensor> x, double t) -> std::vector<at::Tensor> {
    const at::Tensor at_t = at::full({b}, t, options);
    std::vector<at::Tensor> velocity = conditional->velocities(x, at_t);
    if (!guided || !flow::guidance_acts(guidance, t)) return velocity;
    return {
        flow::guide(guidance, {.conditional = velocity.front(),
                               .without_text = without_text->velocities(x, at_t).front(),
                               .without_image = by_image ? without_image->velocities(x, at_t).front() : at::Tensor()})};
  };
  return walk(walked, std::span(&plan, 1), flow::time_grid(config.num_steps, config.timestep_shift), field, runtime,
              device);
}

std::vector<FlowSegment> denoise_clips(policy::UnifiedPolicy& policy, const RolloutConfig& config,
                                       std::span<const DenoiseRequest> rows, const policy::ClipShape& shape,
                                       const Runtime& runtime) {
  const at::NoGradGuard no_grad;
  policy::ClipPolicy& clips = *policy.clips();
  const auto options = at::TensorOptions(at::kFloat).device(policy.device());
  const std::vector<int64_t> channels = clips.clip_channels();
  std::vector<StreamPlan> plans;
  for (const std::string_view modality : flow_modalities(config)) {
    const size_t m = plans.size();
    plans.push_back({.modality = std::string(modality),
                     .grid = m == 0 ? shape.video : shape.audio,
                     .channels = channels[m],
                     .sde = sde_of(config, modality),
                     .key = fnv1a64(modality)});
  }
  std::vector<WalkRow> walked;
  std::vector<const policy::Context*> contexts;
  for (const DenoiseRequest& row : rows) {
    walked.push_back(clip_row(config, row, plans));
    contexts.push_back(row.context);
  }
  const auto denoiser = clips.denoise_clips(contexts, shape);
  const Field field = [&](std::span<const at::Tensor> x, double t) {
    return denoiser->velocities(x, at::full({static_cast<int64_t>(rows.size())}, t, options));
  };
  const int64_t tokens = config.shift_tokens > 0 ? config.shift_tokens : shape.video.num_tokens();
  auto segments = walk(walked, plans, clips.clip_times(config.num_steps, tokens), field, runtime, policy.device());
  for (FlowSegment& segment : segments) segment.fps = shape.fps;
  return segments;
}

}  // namespace unigrpo::rollout

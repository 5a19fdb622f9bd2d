#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"
#include "checkpoint/export_ltx2.h"
#include "flow/matching_loss.h"
#include "optim/clipped_step.h"
#include "policy/load.h"
#include "policy/ltx2/ltx2.h"
#include "runtime/ranks.h"
#include "tensor/device.h"
#include "tensor/rng.h"
#include "train/clip_examples.h"
#include "train/sft_objective.h"
#include "train/step_hook.h"

namespace unigrpo::train {
namespace {

constexpr std::array<const char*, 2> kStreams = {"video", "audio"};

/// One noisy state of a clip.
struct ClipCopy {
  std::array<double, 2> t = {};                      // of each stream; 0: a condition, without loss
  std::array<at::Tensor, 2> clean = {}, noise = {};  // [1, L, C]
  bool isolated = false;                             // without attention between the streams
  const policy::EncodedBlock* text = {};
};

/// Supervised training of an LTX-2 folder: flow matching a stream, of the transformer and of what reads texts.
class ClipSftObjective : public Objective {
 public:
  ClipSftObjective(const recipe::Recipe& recipe, const Runtime& runtime)
      : recipe_(recipe),
        sft_(recipe.sft),
        runtime_(runtime),
        examples_(recipe.data.prompts, recipe.sft.clip_noise, runtime.seed),
        policy_(open_policy(recipe.policy, runtime)),
        parameters_(trained_of(recipe.policy, *policy_)),
        generation_(read_generation_config(recipe.policy.model)) {
    if (sft_.video_weight == 0 && sft_.audio_weight == 0) {
      throw BadInput("sft.video_weight, sft.audio_weight: expected a weight > 0 in one of them: nothing is trained");
    }
    const at::NoGradGuard no_grad;
    for (int64_t row = 0; row < examples_.size(); ++row) policy_->prompt_positions(examples_.prompt(row));
    const media::Clip clip = examples_.clip(0);
    const policy::ClipShape shape = policy_->clip_shape({.frames = clip.frames.count,
                                                         .height = clip.frames.height,
                                                         .width = clip.frames.width,
                                                         .fps = clip.fps.value()});
    positions_ = policy_->positions(shape);
    tokens_ = shape.video.num_tokens() + shape.audio.num_tokens();
    encoded(0);
    if (sft_.prompt_dropout > 0) policy_->encode_text(nullptr);
  }

  NamedTensors parameters() const override { return parameters_; }
  policy::UnifiedPolicy* policy() override { return policy_.get(); }
  const GenerationConfig& generation() const override { return generation_; }

  bool sample(Step& step, const RunContext& run) override {
    run.enter(step.number(), "data");
    keys_ = examples_.batch(step.index, sft_.batch_size);
    index_ = static_cast<uint64_t>(step.index);
    return uninterrupted(runtime_, [&] {
      for (size_t place = 0; place < keys_.size(); ++place) {
        runtime_.stop.throw_if_requested();
        if (is_own(place)) encoded(keys_[place]);
      }
      return !runtime_.stop.requested();
    });
  }

  // L = sum over streams m of w_m * mean over noisy states of |v_m(x_t, t, text) - (eps_m - x_0,m)|^2
  //
  // One t for both streams, but for a share `independent_t` of the states, which draw two; half of these have one of
  // the streams clean, so that the other is made from it. A share `prompt_dropout` of the clips is without text, a
  // share `isolated` of the states without attention between the streams: what guidance subtracts.
  bool update(Step& step, const Optimization& optimization, const RunContext& /*run*/) override {
    const Values counts = count();
    tensor::Readings losses;
    optim::drop_gradients(optimization.optimizer, nullptr);
    const bool complete = uninterrupted(runtime_, [&] {
      const int64_t per_clip = sft_.timesteps_per_image * tokens_;
      const auto at_once = static_cast<size_t>(std::max<int64_t>(1, recipe_.grpo.micro_batch_tokens / per_clip));
      for (size_t first = 0; first < keys_.size(); first += at_once) {
        if (stop_before_pass(runtime_)) return false;
        fault::point("sft.micro_batch");
        add_gradients(first, std::min(first + at_once, keys_.size()), counts, losses);
      }
      return true;
    });
    if (!complete) {
      optim::drop_gradients(optimization.optimizer, nullptr);
      return false;
    }
    optim::clipped_step(optimization.optimizer, optimization.clip, runtime_, optimization.lr_factor, step.metrics);
    Values own = {{"video", 0.0}, {"audio", 0.0}};
    for (const auto& [name, value] : losses.read()) own[name] += value;
    const Values sums = summed(runtime_, own, "losses");
    step.metrics["sft/loss"] = sft_.video_weight * sums.at("video") + sft_.audio_weight * sums.at("audio");
    for (const auto& [name, value] : sums) step.metrics[fmt::format("sft/{}_velocity_mse", name)] = value;
    step.metrics["optim/skipped"] = static_cast<double>(optimization.clip.skipped());
    step.metrics["throughput/clips_per_s"] = static_cast<double>(sft_.batch_size) / step.watch.seconds();
    return true;
  }

  std::filesystem::path output(const std::filesystem::path& /*run_dir*/) const override { return sft_.output; }

  void write_model(const std::filesystem::path& destination, int64_t /*step*/) override {
    checkpoint::export_ltx2(policy_->model(), destination, {.text_encoder = policy_->text().parameters()});
  }

 private:
  static std::unique_ptr<policy::Ltx2> open_policy(const policy::PolicyConfig& config, const Runtime& runtime) {
    policy::PolicyConfig loaded = config;
    loaded.freeze.clear();  // they may name what reads texts, too
    return policy::Ltx2::load(loaded, runtime);
  }
  static NamedTensors trained_of(const policy::PolicyConfig& config, const policy::Ltx2& policy) {
    NamedTensors all = policy.parameters(), trained;
    for (NamedTensor& weight : policy.text_parameters()) all.push_back(std::move(weight));
    policy::check_freeze(config, all);
    for (const NamedTensor& weight : all) {
      const bool frozen = policy::matches_any(config.freeze, weight.name);
      weight.tensor.requires_grad_(!frozen);
      if (!frozen) trained.push_back(weight);
    }
    return trained;
  }

  bool is_own(size_t place) const { return static_cast<int64_t>(place) % num_shares(runtime_) == own_share(runtime_); }

  /// What is random about the clip at a place of the batch.
  RandomStream draws_of(size_t place) const {
    return RandomStream({.seed = runtime_.seed, .step = index_, .sample = place, .purpose = Purpose::sft_timestep});
  }

  /// t in (0, 1), logit-normal and shifted: u = sigmoid(n), t = s u / (1 + (s - 1) u).
  double draw_time(RandomStream& stream) const {
    const double u = 1.0 / (1.0 + std::exp(-stream.normal())), shift = recipe_.rollout.timestep_shift;
    return shift * u / (1.0 + (shift - 1.0) * u);
  }

  struct Times {
    std::array<double, 2> t;
    bool isolated;
  };
  Times draw_times(RandomStream& stream) const {
    Times drawn;
    drawn.t.fill(draw_time(stream));
    drawn.isolated = stream.chance(sft_.isolated);
    if (!stream.chance(sft_.independent_t)) return drawn;
    drawn.t[1] = draw_time(stream);
    if (stream.chance(0.5)) drawn.t[stream.below(2)] = 0;
    return drawn;
  }

  /// Noisy states with a loss, of each stream, on all ranks: known without looking at any clip.
  Values count() const {
    Values counts = {{"video", 0.0}, {"audio", 0.0}};
    for (size_t place = 0; place < keys_.size(); ++place) {
      RandomStream stream = draws_of(place);
      stream.chance(sft_.prompt_dropout);
      for (int64_t copy = 0; copy < sft_.timesteps_per_image; ++copy) {
        const Times times = draw_times(stream);
        for (size_t m = 0; m < 2; ++m) counts[kStreams[m]] += times.t[m] > 0 ? 1 : 0;
      }
    }
    return counts;
  }

  void add_gradients(size_t first, size_t last, const Values& counts, tensor::Readings& losses) {
    std::vector<policy::EncodedBlock> texts;
    texts.reserve(last - first);
    std::vector<ClipCopy> together, apart;
    for (size_t place = first; place < last; ++place) {
      if (!is_own(place)) continue;
      RandomStream stream = draws_of(place);
      const bool without_text = stream.chance(sft_.prompt_dropout);
      texts.push_back(policy_->encode_text(without_text ? nullptr : &examples_.prompt(keys_[place])));
      for (int64_t n = 0; n < sft_.timesteps_per_image; ++n) {
        const Times times = draw_times(stream);
        ClipCopy copy{.t = times.t, .isolated = times.isolated, .text = &texts.back()};
        for (size_t m = 0; m < 2; ++m) {
          copy.clean[m] = encoded(keys_[place])[m];
          copy.noise[m] = tensor::normal(copy.clean[m].sizes(), {.seed = runtime_.seed,
                                                                 .step = index_,
                                                                 .sample = place,
                                                                 .segment = static_cast<uint64_t>(n),
                                                                 .stream = fnv1a64(kStreams[m]),
                                                                 .purpose = Purpose::sft_noise});
        }
        (copy.isolated ? apart : together).push_back(std::move(copy));
      }
    }
    std::vector<at::Tensor> terms;
    for (const std::vector<ClipCopy>* copies : {&together, &apart}) add_losses(*copies, counts, losses, terms);
    if (!terms.empty()) at::stack(terms).sum().backward();
  }

  void add_losses(const std::vector<ClipCopy>& copies, const Values& counts, tensor::Readings& losses,
                  std::vector<at::Tensor>& terms) {
    if (copies.empty()) return;
    const at::Device device = policy_->device();
    std::vector<const policy::EncodedBlock*> texts;
    for (const ClipCopy& copy : copies) texts.push_back(copy.text);
    std::array<at::Tensor, 2> clean, noise, t, noisy;
    for (size_t m = 0; m < 2; ++m) {
      std::vector<at::Tensor> clean_rows, noise_rows;
      std::vector<float> times;
      for (const ClipCopy& copy : copies) {
        clean_rows.push_back(copy.clean[m]);
        noise_rows.push_back(copy.noise[m]);
        times.push_back(static_cast<float>(copy.t[m]));
      }
      clean[m] = at::cat(clean_rows).to(device);
      noise[m] = at::cat(noise_rows).to(device);
      t[m] = at::tensor(times).to(device);
      noisy[m] = flow::noisy_latents(clean[m], noise[m], t[m]);
    }
    const auto velocities =
        policy_->velocities(texts, noisy, {.video = t[0], .audio = t[1]}, positions_, copies.front().isolated);
    for (size_t m = 0; m < 2; ++m) {
      const double weight = m == 0 ? sft_.video_weight : sft_.audio_weight;
      const at::Tensor with_loss = t[m].gt(0);
      const at::Tensor loss = (flow::matching_loss(velocities[m], clean[m], noise[m]) * with_loss).sum() /
                              std::max(counts.at(kStreams[m]), 1.0);
      losses.add(kStreams[m], loss);
      terms.push_back(weight * loss);
    }
  }

  /// A row's clip as normalised latents [1, L, C] a stream; kept.
  const std::array<at::Tensor, 2>& encoded(int64_t row) {
    if (const auto found = cache_.find(row); found != cache_.end()) return found->second;
    const media::Clip clip = examples_.clip(row);
    const auto latents = policy_->encode_clips(std::span(&clip, 1));
    return cache_[row] = {latents.video.cpu(), latents.audio.cpu()};
  }

  const recipe::Recipe& recipe_;
  const recipe::SftConfig& sft_;
  const Runtime& runtime_;
  const ClipExamples examples_;
  const std::unique_ptr<policy::Ltx2> policy_;
  const NamedTensors parameters_;
  const GenerationConfig generation_;
  policy::ltx2::ClipPositions positions_;
  int64_t tokens_ = 0;  // of a noisy state
  std::map<int64_t, std::array<at::Tensor, 2>> cache_;
  std::vector<int64_t> keys_;  // of the step under way
  uint64_t index_ = 0;         // its index
};

}  // namespace

std::unique_ptr<Objective> make_clip_sft_objective(const recipe::Recipe& recipe, const Runtime& runtime) {
  return std::make_unique<ClipSftObjective>(recipe, runtime);
}

}  // namespace unigrpo::train

#include <ATen/ATen.h>

#include <array>
#include <filesystem>

#include "base/hash.h"
#include "checkpoint/export_ltx2.h"
#include "optim/clipped_step.h"
#include "policy/ltx2/clip_tensors.h"
#include "policy/ltx2/latents.h"
#include "policy/ltx2/text.h"
#include "runtime/ranks.h"
#include "train/autoencoder_loss.h"
#include "train/clip_examples.h"
#include "train/sft_objective.h"
#include "train/step_hook.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
namespace ltx2 = policy::ltx2;

constexpr std::array kTowers = {"vae", "audio_vae"};

/// The measured statistics of a tower's latents are no parameters.
bool is_statistics(const std::string& name) { return name == "latents_mean" || name == "latents_std"; }

at::Tensor statistics_of(const ltx2::Model& model, const std::string& tower, const std::string& name) {
  for (const NamedTensor& weight : model.part(tower)) {
    if (weight.name == name) return weight.tensor;
  }
  throw std::out_of_range(name);
}

/// Video and audio autoencoder of an LTX-2 folder, side by side on the same clips.
class ClipAutoencoderObjective : public Objective {
 public:
  ClipAutoencoderObjective(const recipe::Recipe& recipe, const Runtime& runtime)
      : recipe_(recipe),
        runtime_(runtime),
        model_(ltx2::Model::load(recipe.policy.model, {.device = runtime.device, .fresh = runtime.seed})),
        examples_(recipe.data.prompts, recipe.sft.clip_noise, runtime.seed) {
    for (const char* tower : kTowers) {
      for (const NamedTensor& weight : model_->part(tower)) {
        if (is_statistics(weight.name)) continue;
        weight.tensor.requires_grad_(true);
        parameters_.push_back({std::string(tower) + "." + weight.name, weight.tensor});
      }
    }
    if (model_->index().contains("text_encoder")) {
      text_ = ltx2::open_text_encoder(model_->folder() / "text_encoder", model_->connectors().config(), runtime.seed);
    }
    inputs_of(0, 1);  // what does not fit is told before anything is made
  }

  NamedTensors parameters() const override { return parameters_; }
  const GenerationConfig& generation() const override { return generation_; }

  bool sample(Step& step, const RunContext& run) override {
    run.enter(step.number(), "data");
    own_ = own_examples(runtime_, recipe_.sft.batch_size);
    if (own_.count > 0) inputs_ = inputs_of(step.index * own_.batch + own_.first, own_.count);
    return !stop_asked(runtime_);
  }

  // Of each tower, on pixels in [-1, 1] and on what the audio front end makes of the wave, with the terms of
  // autoencoder_loss.h:
  //
  //   L = a l1 + mse + kl_weight * kl
  //
  // a is 1 for video. Most of a sound is 0, where an absolute error would hold all of it: there a is 0.
  bool update(Step& step, const Optimization& optimization, const RunContext& /*run*/) override {
    if (stop_asked(runtime_)) return false;
    Values losses;
    if (own_.count > 0) {
      const auto& vae = model_->vae();
      const auto& audio_vae = model_->audio_vae();
      backward(step, "video", inputs_.frames, vae, 1, losses);
      backward(step, "audio", inputs_.sound, audio_vae, 0, losses);
    }
    optim::clipped_step(optimization.optimizer, optimization.clip, runtime_, optimization.lr_factor, step.metrics);
    step.metrics.merge(summed(runtime_, losses, "losses"));
    step.metrics["throughput/clips_per_s"] = static_cast<double>(recipe_.sft.batch_size) / step.watch.seconds();
    return true;
  }

  fs::path output(const fs::path& /*run_dir*/) const override { return recipe_.sft.output; }

  void write_model(const fs::path& destination, int64_t step) override {
    measure(step * recipe_.sft.batch_size);
    checkpoint::export_ltx2(*model_, destination,
                            {.text_encoder = text_ ? text_->parameters() : NamedTensors{},
                             .fresh_dtypes = {{"vae", at::kBFloat16}, {"audio_vae", at::kBFloat16}}});
  }

 private:
  ltx2::ClipTensors inputs_of(int64_t first, int64_t count) const {
    std::vector<media::Clip> clips;
    for (int64_t i = 0; i < count; ++i) clips.push_back(examples_.clip(examples_.batch(first + i, 1).front()));
    return ltx2::clip_tensors(clips, *model_);
  }

  /// Of this rank's clips; means over them count with their share of the batch.
  template <typename Tower>
  void backward(const Step& step, const std::string& name, const at::Tensor& x, const Tower& tower, double absolute,
                Values& losses) {
    const auto posterior = tower.encode(x);
    const StreamKey noise = {.seed = runtime_.seed,
                             .step = static_cast<uint64_t>(step.index),
                             .stream = fnv1a64(name),
                             .purpose = Purpose::vae_posterior};
    const auto decode = [&](const at::Tensor& z) { return tower.decode(z); };
    const AutoencoderTerms terms = autoencoder_terms(x, posterior.mean, posterior.logvar, decode, own_, noise);
    const double share = own_.share();
    const at::Tensor loss = share * (absolute * terms.l1 + terms.mse + recipe_.sft.kl_weight * terms.kl);
    loss.backward();
    losses["sft/loss"] += loss.item<double>();
    losses["sft/" + name + "_l1"] = share * terms.l1.item<double>();
    losses["sft/" + name + "_mse"] = share * terms.mse.item<double>();
    losses["sft/" + name + "_kl"] = share * terms.kl.item<double>();
  }

  /// Mean and deviation of the latents: of video a channel, of packed audio a feature.
  void measure(int64_t first) {
    const at::NoGradGuard no_grad;
    constexpr int64_t kClips = 64, kAtOnce = 16;
    std::array<std::vector<at::Tensor>, 2> rows;  // [N, features]
    for (int64_t i = 0; i < kClips; i += kAtOnce) {
      const ltx2::ClipTensors inputs = inputs_of(first + i, kAtOnce);
      rows[0].push_back(model_->vae().encode(inputs.frames).mean.movedim(1, -1).flatten(0, -2));
      rows[1].push_back(ltx2::pack_audio(model_->audio_vae().encode(inputs.sound).mean).flatten(0, 1));
    }
    for (size_t tower = 0; tower < kTowers.size(); ++tower) {
      const at::Tensor all = at::cat(rows[tower]);
      statistics_of(*model_, kTowers[tower], "latents_mean").copy_(all.mean(0));
      statistics_of(*model_, kTowers[tower], "latents_std").copy_(all.std(0).clamp_min(1e-3));
    }
  }

  const recipe::Recipe& recipe_;
  const Runtime& runtime_;
  const std::unique_ptr<ltx2::Model> model_;
  std::unique_ptr<ltx2::TextSource> text_;
  const ClipExamples examples_;
  const GenerationConfig generation_;
  NamedTensors parameters_;
  OwnExamples own_;  // of the batch of the step under way
  ltx2::ClipTensors inputs_;
};

}  // namespace

std::unique_ptr<Objective> make_clip_autoencoder_objective(const recipe::Recipe& recipe, const Runtime& runtime) {
  return std::make_unique<ClipAutoencoderObjective>(recipe, runtime);
}

}  // namespace unigrpo::train

#include <ATen/ATen.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/build_folder.h"
#include "data/prompt_file.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "optim/clipped_step.h"
#include "policy/bagel/bagel.h"
#include "policy/initial_weight.h"
#include "runtime/ranks.h"
#include "tensor/convert.h"
#include "tensor/device.h"
#include "train/autoencoder_loss.h"
#include "train/sft_examples.h"
#include "train/sft_objective.h"
#include "train/step_hook.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;

std::vector<Image> render_batch(const ShapesExamples& examples, int64_t first, int64_t count) {
  std::vector<Image> images;
  for (int64_t i = 0; i < count; ++i) images.push_back(data::shapes::render(examples.draw_world(first + i).scene));
  return images;
}

/// config.json with the latents' measured shift and scale: (mean - shift) * scale has mean 0 and std 1.
std::string config_with_scale(const fs::path& file, double shift, double scale) {
  auto config = nlohmann::ordered_json::parse(io::read_text_file(file));
  config["vae_config"]["shift_factor"] = shift;
  config["vae_config"]["scale_factor"] = scale;
  return config.dump(2) + "\n";
}

/// The source's files, with config.json replaced and the weights in bf16.
void write_autoencoder_folder(const fs::path& source, const fs::path& folder, const NamedTensors& parameters,
                              const std::string& config) {
  for (const auto& entry : fs::directory_iterator(source)) {
    const auto name = entry.path().filename();
    if (entry.is_regular_file() && name != "ae.safetensors" && name != "config.json") {
      fs::copy_file(entry.path(), folder / name);
    }
  }
  NamedTensors stored;
  for (const NamedTensor& named : parameters) {
    stored.push_back({named.name, named.tensor.detach().to(at::kCPU, at::kBFloat16).contiguous()});
  }
  std::vector<io::TensorView> views;
  for (const NamedTensor& named : stored) views.push_back(tensor::to_view(named.tensor, named.name));
  io::write_safetensors(folder / "ae.safetensors", views, {{"format", "pt"}});
  io::write_file_atomic(folder / "config.json", config);
}

/// There are no sequences to share: each rank has images of its own.
Runtime by_itself(Runtime runtime) {
  runtime.groups = nullptr;
  return runtime;
}

class AutoencoderObjective : public Objective {
 public:
  AutoencoderObjective(const recipe::Recipe& recipe, const Runtime& runtime)
      : recipe_(recipe),
        runtime_(by_itself(runtime)),
        sizes_(policy::read_bagel_config(recipe.policy.model)),
        weights_(recipe.policy.model,
                 [&](const std::string& name, const std::vector<int64_t>& shape) {
                   return policy::initial_weight(sizes_.llm, name, shape, runtime.seed).to(runtime.device);
                 }),
        autoencoder_(sizes_.vae, weights_),
        examples_(recipe.data.prompts, data::read_prompt_file(recipe.data.prompts), {}, runtime.seed) {
    for (const auto& [name, tensor] : weights_.tensors()) {
      tensor.requires_grad_(true);
      parameters_.push_back({name, tensor});
    }
  }

  NamedTensors parameters() const override { return parameters_; }
  const GenerationConfig& generation() const override { return generation_; }

  bool sample(Step& step, const RunContext& run) override {
    run.enter(step.number(), "data");
    own_ = own_examples(runtime_, recipe_.sft.batch_size);
    if (own_.count > 0) pixels_ = pixels_of(step.index * own_.batch + own_.first, own_.count);
    return !stop_asked(runtime_);
  }

  // On pixels in [-1, 1], with the terms of autoencoder_loss.h:
  //
  //   L = l1 + mse + kl_weight * kl
  bool update(Step& step, const Optimization& optimization, const RunContext& /*run*/) override {
    if (stop_asked(runtime_)) return false;
    Values losses;
    if (own_.count > 0) losses = backward(step);
    optim::clipped_step(optimization.optimizer, optimization.clip, runtime_, optimization.lr_factor, step.metrics);
    step.metrics.merge(summed(runtime_, losses, "losses"));
    step.metrics["throughput/images_per_s"] = static_cast<double>(recipe_.sft.batch_size) / step.watch.seconds();
    return true;
  }

  fs::path output(const fs::path& /*run_dir*/) const override { return recipe_.sft.output; }

  void write_model(const fs::path& destination, int64_t step) override {
    // Measured on images that training did not see.
    const at::NoGradGuard no_grad;
    const at::Tensor latents = autoencoder_.posterior(pixels_of(step * recipe_.sft.batch_size, 256)).mean;
    const fs::path source = recipe_.policy.model;
    const std::string config =
        config_with_scale(source / "config.json", latents.mean().item<double>(), 1.0 / latents.std().item<double>());
    checkpoint::build_folder(
        destination, [&](const fs::path& folder) { write_autoencoder_folder(source, folder, parameters_, config); });
  }

 private:
  at::Tensor pixels_of(int64_t first, int64_t count) const {
    return tensor::sent(policy::to_pixels(render_batch(examples_, first, count)), runtime_.device);
  }

  /// Of this rank's images; means over them count with their share of the batch.
  Values backward(const Step& step) {
    const auto posterior = autoencoder_.posterior(pixels_);
    const StreamKey noise = {
        .seed = runtime_.seed, .step = static_cast<uint64_t>(step.index), .purpose = Purpose::vae_posterior};
    const auto decode = [&](const at::Tensor& z) { return autoencoder_.decode_unscaled(z); };
    const AutoencoderTerms terms = autoencoder_terms(pixels_, posterior.mean, posterior.logvar, decode, own_, noise);
    const double share = own_.share();
    const at::Tensor loss = share * (terms.l1 + terms.mse + recipe_.sft.kl_weight * terms.kl);
    loss.backward();
    return {{"sft/loss", loss.item<double>()},
            {"sft/reconstruction_l1", share * terms.l1.item<double>()},
            {"sft/kl", share * terms.kl.item<double>()}};
  }

  const recipe::Recipe& recipe_;
  const Runtime runtime_;
  const policy::BagelConfig sizes_;
  nn::Weights weights_;
  const policy::Autoencoder autoencoder_;
  NamedTensors parameters_;
  const ShapesExamples examples_;
  const GenerationConfig generation_;
  OwnExamples own_;    // of the batch of the step under way
  at::Tensor pixels_;  // [own_.count, 3, H, W]
};

}  // namespace

std::unique_ptr<Objective> make_autoencoder_objective(const recipe::Recipe& recipe, const Runtime& runtime) {
  return std::make_unique<AutoencoderObjective>(recipe, runtime);
}

}  // namespace unigrpo::train

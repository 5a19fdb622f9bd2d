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
#include "tensor/rng.h"
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
    const int64_t batch = recipe_.sft.batch_size;
    const auto [rank, ranks] = std::pair(runtime_.mesh.rank, runtime_.mesh.world_size);
    first_ = batch * rank / ranks;
    count_ = batch * (rank + 1) / ranks - first_;
    if (count_ > 0) pixels_ = pixels_of(step.index * batch + first_, count_);
    return !stop_asked(runtime_);
  }

  // Loss of a variational autoencoder on pixels in [-1, 1]:
  //
  //   L = mean |x - decode(z)| + mean (x - decode(z))^2 + kl_weight * mean_latents KL(N(mean, e^logvar) || N(0, 1))
  //   z = mean + exp(logvar / 2) n,    KL = (mean^2 + e^logvar - 1 - logvar) / 2
  bool update(Step& step, const Optimization& optimization, const RunContext& /*run*/) override {
    if (stop_asked(runtime_)) return false;
    Values losses;
    if (count_ > 0) losses = backward(step);
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
    std::vector<int64_t> sizes = posterior.mean.sizes().vec();
    sizes.front() = recipe_.sft.batch_size;
    const StreamKey key = {
        .seed = runtime_.seed, .step = static_cast<uint64_t>(step.index), .purpose = Purpose::vae_posterior};
    const at::Tensor noise = tensor::normal(sizes, key, pixels_.device()).narrow(0, first_, count_);
    const at::Tensor z = posterior.mean + (0.5 * posterior.logvar).exp() * noise;
    const at::Tensor error = autoencoder_.decode_unscaled(z) - pixels_;
    const at::Tensor reconstruction = error.abs().mean() + error.square().mean();
    const at::Tensor kl = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1.0 - posterior.logvar).mean();
    const double share = static_cast<double>(count_) / static_cast<double>(recipe_.sft.batch_size);
    const at::Tensor loss = share * (reconstruction + recipe_.sft.kl_weight * kl);
    loss.backward();
    return {{"sft/loss", loss.item<double>()},
            {"sft/reconstruction_l1", share * error.abs().mean().item<double>()},
            {"sft/kl", share * kl.item<double>()}};
  }

  const recipe::Recipe& recipe_;
  const Runtime runtime_;
  const policy::BagelConfig sizes_;
  nn::Weights weights_;
  const policy::Autoencoder autoencoder_;
  NamedTensors parameters_;
  const ShapesExamples examples_;
  const GenerationConfig generation_;
  int64_t first_ = 0, count_ = 0;  // of the batch of the step under way, what is this rank's
  at::Tensor pixels_;              // [count_, 3, H, W], of it
};

}  // namespace

std::unique_ptr<Objective> make_autoencoder_objective(const recipe::Recipe& recipe, const Runtime& runtime) {
  return std::make_unique<AutoencoderObjective>(recipe, runtime);
}

}  // namespace unigrpo::train

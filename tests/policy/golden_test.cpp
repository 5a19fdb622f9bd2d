// What the official code computes on tests/data/bagel_tiny (tests/data/README.md), held against BAGEL in float32 and in
// bf16.
//
// The goldens are float32. In bf16 weights and activations have 8 significant bits: a rounding is off by up to 2^-8 of
// its value, and the errors of the few dozen between input and output add up like noise. Measured is ||got - want|| /
// ||want|| of a whole tensor, as elements near 0 have no digits left. float32 goes through the same code under the
// goldens' own bounds, so that those of bf16 say something about bf16.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flow/matching_loss.h"
#include "flow/ode_step.h"
#include "flow/time_grid.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "kernels/gather_log_prob.h"
#include "nn/patch.h"
#include "policy/bagel/bagel.h"
#include "tensor/convert.h"

namespace unigrpo::policy {
namespace {

const std::filesystem::path kFolder = std::filesystem::path(UNIGRPO_TEST_DATA) / "bagel_tiny";

/// The largest relative error that a kind of value may have.
struct Bounds {
  double output, trajectory, loss, gradient;
};
constexpr Bounds kFloat32 = {.output = 2e-4, .trajectory = 1e-3, .loss = 1e-4, .gradient = 1e-3};  // the goldens' own
constexpr Bounds kBfloat16 = {.output = 2.5e-2, .trajectory = 1.5e-2, .loss = 2e-2, .gradient = 5e-2};
// Found at most, with and without bf16 instructions: 1.6e-2, 6.4e-3, 9.1e-3, 3.1e-2.

class Golden : public ::testing::TestWithParam<DtypeChoice> {
 protected:
  static std::unique_ptr<Bagel> open(DtypeChoice dtype) {
    PolicyConfig config;
    config.model = kFolder.string();
    config.dtype = dtype;
    config.freeze = {};
    return Bagel::load(config, {});
  }

  at::Tensor golden(const std::string& name) const { return tensor::to_tensor(*tensors.find(name), at::kFloat); }
  std::vector<int64_t> ids(const char* name) const { return facts.at(name).get<std::vector<int64_t>>(); }

  void expect(const std::string& name, const at::Tensor& got, const at::Tensor& want, double bound) {
    ASSERT_EQ(got.sizes(), want.sizes()) << name;
    const double error = ((got.detach().to(at::kFloat) - want).norm() / want.norm()).item<double>();
    EXPECT_LE(error, bound) << name;
    if (GetParam() == DtypeChoice::bfloat16) {
      EXPECT_GT(error, 1e-4) << name << ": no bf16 at work";
    }
    RecordProperty(name, std::to_string(error));  // --gtest_output=xml shows them
  }

  at::Tensor append(Context& context, const std::vector<int64_t>& tokens) {
    Context* row = &context;
    return model->append_text(std::span<Context* const>(&row, 1), std::span(&tokens, 1));
  }
  void append(Context& context, const Block& image) {
    Context* row = &context;
    model->append_images(std::span<Context* const>(&row, 1), std::span(&image, 1));
  }
  LatentBlock latents_block() const {
    return {.latents = model->encode_images(golden("image").unsqueeze(0)).squeeze(0), .grid = {4, 4}};
  }
  VisionBlock vision_block() const {
    const at::Tensor image = golden("vit_image");
    const int64_t patch = model->config().vit.patch_size;
    return {.pixels = image, .grid = {image.size(1) / patch, image.size(2) / patch}};
  }
  /// Holds the velocity at state `state` in this context against `want`.
  void expect_velocity(const std::string& name, const Context& context, int64_t state, const at::Tensor& want) {
    const Context* reader = &context;
    const at::Tensor t = at::full({1}, facts.at("velocity_t")[state].get<double>(), at::kFloat);
    expect(
        name,
        model->denoise(std::span(&reader, 1), {4, 4})->velocity(golden("velocity_x")[state].unsqueeze(0), t).squeeze(0),
        want, bounds.output);
  }

  const std::unique_ptr<Bagel> model = open(GetParam());
  const Bounds bounds = GetParam() == DtypeChoice::bfloat16 ? kBfloat16 : kFloat32;
  const io::SafetensorsFile tensors{kFolder / "golden.safetensors"};
  const nlohmann::json facts = nlohmann::json::parse(io::read_text_file(kFolder / "golden.json"));
};

TEST_P(Golden, Text) {
  Context context;
  std::vector<at::Tensor> rows;
  for (const int64_t id : ids("prompt_ids")) rows.push_back(append(context, std::vector<int64_t>{id}));
  expect("text_logits", at::cat(rows), golden("text_logits"), bounds.output);
}

TEST_P(Golden, Drawing) {
  Context context;
  append(context, ids("prompt_ids"));
  append(context, ids("think_ids"));
  for (int64_t state = 0; state < 4; ++state) {
    expect_velocity("velocity " + std::to_string(state), context, state, golden("velocity")[state]);
  }
  const auto times =
      flow::time_grid(facts.at("ode").at("num_timesteps").get<int64_t>() - 1, facts.at("ode").at("timestep_shift"));
  const Context* reader = &context;
  const auto denoiser = model->denoise(std::span(&reader, 1), {4, 4});
  at::Tensor x = golden("init_noise").unsqueeze(0);
  for (size_t i = 0; i + 1 < times.size(); ++i) {
    x = flow::ode_step(x, denoiser->velocity(x, at::full({1}, times[i], at::kFloat)), times[i], times[i + 1]);
  }
  expect("ode_final", x.squeeze(0), golden("ode_final"), bounds.trajectory);
}

TEST_P(Golden, Vision) {
  const at::NoGradGuard no_grad;
  const VisionBlock block = vision_block();
  const at::Tensor features = model->vision().features(block.pixels.unsqueeze(0));
  expect("vit_features", features.squeeze(0), golden("vit_features"), bounds.output);
  expect("vit_embeddings", model->vision().connect(features, block.grid.height, block.grid.width).squeeze(0),
         golden("vit_embeddings"), bounds.output);
}

TEST_P(Golden, ImagesInTheContext) {
  const auto request = block_ids(*model, facts.at("edit_prompt"));
  Context edit;
  append(edit, latents_block());
  append(edit, vision_block());
  append(edit, request);
  expect_velocity("edit_velocity", edit, 1, golden("edit_velocity"));
  Context second;
  append(second, ids("prompt_ids"));
  append(second, ids("think_ids"));
  append(second, latents_block());
  append(second, vision_block());
  append(second, request);
  expect_velocity("round2_velocity", second, 2, golden("round2_velocity"));
}

TEST_P(Golden, Training) {
  const nlohmann::json& train = facts.at("train");
  std::vector<at::Tensor> cross_entropies, errors;
  int64_t first = 0;
  for (size_t i = 0; i < train.at("texts").size(); ++i) {  // grids differ, so each sample is a batch of its own
    const LatentGrid grid{train["grids"][i][0], train["grids"][i][1]};
    const at::Tensor clean = nn::patchify(golden("train_latent_" + std::to_string(i)).unsqueeze(0), 2);
    const at::Tensor noise = golden("train_noise").narrow(0, first, grid.num_tokens()).unsqueeze(0);
    first += grid.num_tokens();
    const at::Tensor t = at::full({1}, train["t"][i].get<double>(), at::kFloat);
    const auto think = block_ids(*model, train["texts"][i][1]);
    TrainBatch batch{.prefixes = {{TextBlock{block_ids(*model, train["texts"][i][0])}}}, .sequences = {{}}};
    batch.sequences[0].blocks = {TextBlock{think}, NoisyBlock{flow::noisy_latents(clean, noise, t), t, grid}};
    const TrainOutput out = model->forward_train(batch);
    const auto rows = static_cast<int64_t>(think.size()) - 1;
    const at::Tensor targets = tensor::index_tensor({think.begin() + 1, think.end()});
    cross_entropies.push_back(
        -kernels::gather_log_prob(model->logits(out.text_hidden.narrow(0, 0, rows)), targets, 1.0).log_probs);
    errors.push_back((out.velocity - (noise - clean)).square().squeeze(0));
  }
  const at::Tensor ce = at::cat(cross_entropies), mse = at::cat(errors);
  expect("train_ce", ce, golden("train_ce"), bounds.loss);
  expect("train_mse", mse, golden("train_mse"), bounds.loss);
  (ce.mean() + mse.mean()).backward();
  int compared = 0;
  for (const NamedTensor& parameter : model->parameters()) {
    const std::string name = "grad." + parameter.name;
    if (!tensors.find(name)) continue;
    expect(name, parameter.tensor.grad(), golden(name), bounds.gradient);
    ++compared;
  }
  EXPECT_GE(compared, 5);
}

INSTANTIATE_TEST_SUITE_P(Bagel, Golden, ::testing::Values(DtypeChoice::float32, DtypeChoice::bfloat16),
                         [](const auto& parameter) { return std::string(enum_name(parameter.param)); });

}  // namespace
}  // namespace unigrpo::policy

// The official BAGEL code's own numbers on a tiny checkpoint (tests/data/bagel_tiny, see tests/data/README.md).
#include <filesystem>
#include <string>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "policy/bagel.h"
#include "tensor/convert.h"

namespace unigrpo::policy {
namespace {

class Golden : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::filesystem::path folder = UNIGRPO_TEST_DATA "/bagel_tiny";
    PolicyConfig config;
    config.model = folder.string();
    config.freeze = {};
    model = Bagel::load(config, 0).release();
    tensors = new io::SafetensorsFile(folder / "golden.safetensors");
    facts = new nlohmann::json(io::parse_json(io::read_text_file(folder / "golden.json"), "golden.json"));
  }
  static void TearDownTestSuite() {
    delete model;
    delete tensors;
    delete facts;
  }
  static at::Tensor golden(const std::string& name) {
    const io::TensorView* view = tensors->find(name);
    if (!view) throw std::runtime_error("golden.safetensors lacks " + name);
    return tensor::to_tensor(*view);
  }
  static std::vector<int64_t> ids(const char* key) { return (*facts)[key].get<std::vector<int64_t>>(); }
  static double largest_error(const at::Tensor& got, const at::Tensor& want) {
    EXPECT_EQ(got.sizes(), want.sizes());
    return (got - want).abs().max().item<double>();
  }

  static Bagel* model;
  static io::SafetensorsFile* tensors;
  static nlohmann::json* facts;
};
Bagel* Golden::model = nullptr;
io::SafetensorsFile* Golden::tensors = nullptr;
nlohmann::json* Golden::facts = nullptr;

TEST_F(Golden, TextLogitsOfAPromptBlock) {
  const auto prompt = ids("prompt_ids");
  at::Tensor rows = at::empty({0, model->config().llm.vocab_size});
  Context context;
  for (const int64_t id : prompt) {
    Context* row = &context;
    const std::vector<int64_t> one = {id};
    rows = at::cat({rows, model->append_text(std::span<Context* const>(&row, 1), std::span(&one, 1))}, 0);
  }
  model->release(context);
  EXPECT_LT(largest_error(rows, golden("text_logits")), 2e-4);  // the fixtures' tolerance
}

TEST_F(Golden, GreedyTextAfterThePrompt) {
  const auto want = ids("greedy_ids");
  Context context;
  Context* row = &context;
  std::vector<int64_t> next = ids("prompt_ids");
  model->append_text(std::span<Context* const>(&row, 1), std::span(&next, 1));
  std::vector<int64_t> got = {want.front()};
  while (got.size() < want.size()) {
    next = {got.back()};
    const at::Tensor logits = model->append_text(std::span<Context* const>(&row, 1), std::span(&next, 1));
    got.push_back(logits.argmax(-1).item<int64_t>());
  }
  model->release(context);
  EXPECT_EQ(got, want);
}

TEST_F(Golden, VelocityAndOdeWithCachedContext) {
  Context context;
  Context* row = &context;
  for (const char* block : {"prompt_ids", "think_ids"}) {
    const auto block_ids = ids(block);
    model->append_text(std::span<Context* const>(&row, 1), std::span(&block_ids, 1));
  }
  const LatentGrid grid{4, 4};
  const at::Tensor x = golden("velocity_x"), want = golden("velocity");
  const Context* reader = &context;
  for (int64_t i = 0; i < x.size(0); ++i) {
    const auto denoiser = model->denoise(std::span(&reader, 1), grid);
    const double t = (*facts)["velocity_t"][i].get<double>();
    const at::Tensor v = denoiser->velocity(x.narrow(0, i, 1), at::full({1}, t, at::kFloat));
    EXPECT_LT(largest_error(v.squeeze(0), want[i]), 2e-4) << "t = " << t;
  }
  const auto denoiser = model->denoise(std::span(&reader, 1), grid);
  const int64_t points = (*facts)["ode"]["num_timesteps"].get<int64_t>();
  const double shift = (*facts)["ode"]["timestep_shift"].get<double>();
  at::Tensor state = golden("init_noise").unsqueeze(0);
  auto time = [&](int64_t i) {
    const double u = 1.0 - static_cast<double>(i) / static_cast<double>(points - 1);
    return shift * u / (1 + (shift - 1) * u);
  };
  for (int64_t i = 0; i + 1 < points; ++i) {
    state = state + denoiser->velocity(state, at::full({1}, time(i), at::kFloat)) * (time(i + 1) - time(i));
  }
  EXPECT_LT(largest_error(state.squeeze(0), golden("ode_final")), 1e-3);
  model->release(context);
}

TEST_F(Golden, AutoencoderEncodesAndDecodes) {
  const at::NoGradGuard no_grad;
  const at::Tensor mean = model->autoencoder().encode_mean(golden("image").unsqueeze(0));
  EXPECT_LT(largest_error(mean.squeeze(0), golden("vae_latent_mean")), 2e-4);
  const at::Tensor image = model->autoencoder().decode(golden("vae_decode_in").unsqueeze(0));
  EXPECT_LT(largest_error(image.squeeze(0), golden("vae_decode_out")), 2e-4);
}

TEST_F(Golden, VisionTowerAndConnector) {
  const at::NoGradGuard no_grad;
  const at::Tensor features = model->vision().features(golden("vit_image"));
  EXPECT_LT(largest_error(features, golden("vit_features")), 2e-4);
  EXPECT_LT(largest_error(model->vision().connect(features, 4, 3), golden("vit_embeddings")), 2e-4);
}

TEST_F(Golden, PackedTrainingForwardAndItsGradients) {
  const auto& train = (*facts)["train"];
  TrainBatch batch;
  std::vector<at::Tensor> clean;
  const at::Tensor noise = golden("train_noise");
  at::Tensor ce = at::zeros({0}), mse = at::zeros({0, 64});
  int64_t first = 0;
  // The two samples' grids differ, so each is a batch of its own; losses are means over all of both.
  for (size_t i = 0; i < train["texts"].size(); ++i) {
    auto block = [&](const std::string& text) {
      std::vector<int64_t> all = {model->bos_id()};
      for (const int64_t id : model->tokenizer().encode(text)) all.push_back(id);
      all.push_back(model->eos_id());
      return all;
    };
    const LatentGrid grid{train["grids"][i][0].get<int64_t>(), train["grids"][i][1].get<int64_t>()};
    const at::Tensor map = golden("train_latent_" + std::to_string(i));  // [16, h, w]
    const int64_t h = grid.height, w = grid.width;
    const at::Tensor latent = map.view({16, h, 2, w, 2}).permute({1, 3, 2, 4, 0}).reshape({1, h * w, 64});
    const at::Tensor n = noise.narrow(0, first, h * w).unsqueeze(0);
    first += h * w;
    const at::Tensor t = at::full({1}, train["t"][i].get<double>(), at::kFloat);
    const auto think = block(train["texts"][i][1].get<std::string>());
    TrainBatch one{.prefixes = {block(train["texts"][i][0].get<std::string>())}, .sequences = {{}}};
    one.sequences[0].blocks.push_back({.kind = TrainBlock::Kind::text, .ids = think, .latents = {}, .t = {}, .grid = {}});
    one.sequences[0].blocks.push_back({.kind = TrainBlock::Kind::noisy_image,
                                       .ids = {},
                                       .latents = latent * (1 - t) + n * t,
                                       .t = t,
                                       .grid = grid});
    const TrainOutput out = model->forward_train(one);
    const auto rows = static_cast<int64_t>(think.size()) - 1;
    const at::Tensor log_probs = model->logits(out.text_hidden.narrow(0, 0, rows)).log_softmax(-1);
    const at::Tensor labels = at::tensor(std::vector<int64_t>(think.begin() + 1, think.end()), at::kLong);
    ce = at::cat({ce, -log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)});
    mse = at::cat({mse, (out.velocity - (n - latent)).square().squeeze(0)});
  }
  EXPECT_LT(largest_error(ce, golden("train_ce")), 1e-3);
  EXPECT_LT(largest_error(mse, golden("train_mse")), 1e-2 * golden("train_mse").abs().max().item<double>());
  const at::Tensor loss = ce.mean() + mse.mean();
  EXPECT_NEAR(loss.item<double>(), train["loss_value"].get<double>(), 1e-4 * train["loss_value"].get<double>());
  loss.backward();
  int compared = 0;
  for (const NamedTensor& parameter : model->parameters()) {
    if (!tensors->find("grad." + parameter.name)) continue;
    const at::Tensor want = golden("grad." + parameter.name);
    EXPECT_LT(largest_error(parameter.tensor.grad(), want), 1e-3 * want.abs().max().item<double>()) << parameter.name;
    ++compared;
  }
  EXPECT_EQ(compared, 10);
}

}  // namespace
}  // namespace unigrpo::policy

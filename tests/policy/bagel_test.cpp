#include "policy/bagel/bagel.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "support/tensors.h"
#include "support/tiny_bagel.h"

namespace unigrpo::policy {
namespace {

using testing::close;
using testing::tiny_bagel;

constexpr LatentGrid kGrid{4, 4};
constexpr double kSame = 1e-5;  // float32: the cached and the packed forward sum in other orders

/// `count` ids from 3 on, another run of them for each seed.
std::vector<int64_t> some_ids(int64_t count, int64_t seed) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(3 + (seed * 31 + i * 7) % 390);
  return ids;
}

Block text(std::vector<int64_t> ids) { return TextBlock{std::move(ids)}; }

Block noisy(const at::Tensor& latents, const std::vector<double>& t) {
  return NoisyBlock{latents, at::tensor(t).to(at::kFloat), kGrid};
}

at::Tensor noise(int64_t states, uint64_t seed) { return tensor::normal({states, 16, 64}, {.seed = seed}); }

Block clean(LatentGrid grid, uint64_t seed) {
  return LatentBlock{tensor::normal({grid.num_tokens(), 64}, {.seed = seed}), grid};
}

Block seen(LatentGrid grid, uint64_t seed) {
  return VisionBlock{tensor::normal({3, grid.height * 14, grid.width * 14}, {.seed = seed}).clamp(-1, 1), grid};
}

/// Two prefixes; five sequences: texts of several lengths, images of one to three states, a text
/// after an image, no text.
TrainBatch ragged_batch() {
  TrainBatch batch;
  batch.prefixes = {{text(some_ids(9, 1))}, {text(some_ids(3, 2))}};
  batch.sequences.resize(5);
  batch.sequences[0] = {.prefix = 0, .blocks = {text(some_ids(5, 3)), noisy(noise(2, 1), {1.0, 0.7})}};
  batch.sequences[1] = {.prefix = 0, .blocks = {text(some_ids(1, 4)), noisy(noise(3, 2), {0.9, 0.5, 0.1})}};
  batch.sequences[2] = {.prefix = 1, .blocks = {noisy(noise(1, 3), {0.4}), text(some_ids(7, 5))}};
  batch.sequences[3] = {.prefix = 1,
                        .blocks = {text(some_ids(12, 6)), text(some_ids(2, 7)), noisy(noise(2, 4), {0.3, 0.2})}};
  batch.sequences[4] = {.prefix = 1, .blocks = {noisy(noise(1, 5), {1.0})}};
  return batch;
}

/// Images everywhere: a prefix with an image to edit, another with one to look at, sequences that draw, look at what
/// they drew and draw again. Sizes differ.
TrainBatch interleaved_batch() {
  TrainBatch batch;
  batch.prefixes = {{clean({4, 4}, 1), seen({4, 3}, 2), text(some_ids(6, 1))},
                    {seen({2, 2}, 3), text(some_ids(9, 2))},
                    {text(some_ids(4, 3))}};
  batch.sequences = {{.prefix = 0, .blocks = {text(some_ids(5, 4)), noisy(noise(2, 1), {1.0, 0.7})}},
                     {.prefix = 1, .blocks = {text(some_ids(3, 5))}},
                     {.prefix = 2,
                      .blocks = {text(some_ids(7, 6)), noisy(noise(2, 2), {0.9, 0.5}), clean({4, 4}, 4),
                                 seen({4, 4}, 5), text(some_ids(2, 7)), noisy(noise(1, 3), {0.4})}},
                     {.prefix = 2,
                      .blocks = {text(some_ids(1, 8)), noisy(noise(1, 4), {0.9}), clean({2, 3}, 6), seen({1, 5}, 7),
                                 text(some_ids(8, 9)), noisy(noise(2, 5), {0.8, 0.1})}}};
  return batch;
}

Context read(Bagel& model, const Context& parent, const std::vector<int64_t>& ids) {
  Context context = model.fork(parent);
  Context* row = &context;
  model.append_text(std::span<Context* const>(&row, 1), std::span(&ids, 1));
  return context;
}

/// Runs a batch through the cache, block by block and text token by token as sampling does, and compares with the
/// packed forward.
void expect_cached_equals_packed(Bagel& model, const TrainBatch& batch) {
  const at::NoGradGuard no_grad;
  const TrainOutput out = model.forward_train(batch);
  const at::Tensor logits = model.logits(out.text_hidden);
  int64_t row = 0, state = 0;
  auto append = [&](Context& context, const Block& block, bool compare) {
    Context* reader = &context;
    const std::span<Context* const> one_row(&reader, 1);
    if (const auto* written = std::get_if<TextBlock>(&block)) {
      for (const int64_t id : written->ids) {
        const std::vector<int64_t> one = {id};
        const at::Tensor cached = model.append_text(one_row, std::span(&one, 1));
        if (!compare) continue;
        EXPECT_TRUE(close(cached[0], logits[row], kSame)) << "text row " << row;
        ++row;
      }
    } else if (const auto* states = std::get_if<NoisyBlock>(&block)) {
      const Context* eye = &context;
      const auto denoiser = model.denoise(std::span(&eye, 1), kGrid);
      for (int64_t s = 0; s < states->latents.size(0); ++s, ++state) {
        const at::Tensor cached = denoiser->velocity(states->latents.narrow(0, s, 1), states->t.narrow(0, s, 1));
        EXPECT_TRUE(close(cached[0], out.velocity[state], kSame)) << "image state " << state;
      }
    } else {
      model.append_images(one_row, std::span(&block, 1));
    }
  };
  std::vector<Context> prefixes(batch.prefixes.size());
  for (size_t p = 0; p < prefixes.size(); ++p) {
    for (const Block& block : batch.prefixes[p]) append(prefixes[p], block, false);
  }
  for (const TrainSequence& sequence : batch.sequences) {
    Context context = model.fork(prefixes[sequence.prefix]);
    for (const Block& block : sequence.blocks) append(context, block, true);
    model.release(context);
  }
  for (Context& prefix : prefixes) model.release(prefix);
  EXPECT_EQ(row, out.text_hidden.size(0));
  EXPECT_EQ(state, out.velocity.size(0));
}

TEST(Bagel, TheCachedPathSaysWhatTheTrainingForwardSays) { expect_cached_equals_packed(*tiny_bagel(), ragged_batch()); }

TEST(Bagel, ItDoesWithImagesInTheContextToo) { expect_cached_equals_packed(*tiny_bagel(), interleaved_batch()); }

TEST(Bagel, ContextImagesOfManyRowsAreReadTogetherAsAlone) {
  const auto model = tiny_bagel();
  const std::vector<Block> kinds[] = {{clean({4, 4}, 1), clean({2, 3}, 2), clean({2, 3}, 3)},
                                      {seen({4, 3}, 1), seen({4, 3}, 2), seen({1, 2}, 3)}};
  for (const auto& blocks : kinds) {
    std::vector<Context> together(3);
    std::vector<Context*> rows;
    for (int64_t i = 0; i < 3; ++i) {
      together[i] = read(*model, {}, some_ids(1 + 4 * i, i));
      rows.push_back(&together[i]);
    }
    model->append_images(rows, blocks);
    for (int64_t i = 0; i < 3; ++i) {
      Context alone = read(*model, {}, some_ids(1 + 4 * i, i));
      Context* row = &alone;
      model->append_images(std::span<Context* const>(&row, 1), std::span(&blocks[i], 1));
      EXPECT_EQ(alone.position, together[i].position);
      const std::vector<int64_t> next = {5};
      const at::Tensor want = model->append_text(std::span<Context* const>(&row, 1), std::span(&next, 1));
      const at::Tensor got = model->append_text(std::span<Context* const>(&rows[i], 1), std::span(&next, 1));
      EXPECT_TRUE(close(got, want, kSame));
    }
  }
}

TEST(Bagel, ImagesInTheContextCarryGradientsToTheTower) {
  const auto model = tiny_bagel();
  const TrainOutput out = model->forward_train(interleaved_batch());
  const NamedTensors parameters = model->parameters();
  const at::Tensor tower =
      testing::parameter(*model, "vit_model.vision_model.encoder.layers.0.mlp.fc1.weight").requires_grad_();
  EXPECT_TRUE(out.text_hidden.requires_grad());
  const TrainOutput again = model->forward_train(interleaved_batch());
  const at::Tensor grad = torch::autograd::grad({again.velocity.square().sum()}, {tower}).at(0);
  EXPECT_GT(grad.abs().max().item<double>(), 0);
}

TEST(Bagel, APictureIsReadByTheModelsOwnSizeRules) {
  const auto model = tiny_bagel();  // latents: 64..128 in steps of 16; vision: 112 in steps of 14
  Image wide{.width = 90, .height = 40, .pixels = std::vector<uint8_t>(90 * 40 * 3, 200)};
  const std::vector<Image> two = {wide, {.width = 64, .height = 64, .pixels = std::vector<uint8_t>(64 * 64 * 3, 9)}};
  const auto blocks = model->read_images(two, /*with_latents=*/true);
  ASSERT_EQ(blocks[0].size(), 2U);
  EXPECT_EQ(std::get<LatentBlock>(blocks[0][0]).grid, (LatentGrid{4, 8}));  // 144 x 64 is shrunk to 128 x 64
  EXPECT_EQ(std::get<LatentBlock>(blocks[0][0]).latents.sizes(), (at::IntArrayRef{32, 64}));
  EXPECT_EQ(std::get<VisionBlock>(blocks[0][1]).grid, (LatentGrid{4, 8}));  // 224 x 112, over 112: half
  EXPECT_EQ(std::get<LatentBlock>(blocks[1][0]).grid, kGrid);
  EXPECT_EQ(std::get<VisionBlock>(blocks[1][1]).pixels.sizes(), (at::IntArrayRef{3, 112, 112}));
  EXPECT_EQ(model->read_images(two, false)[0].size(), 1U);
  const Image thread{.width = 10000, .height = 1, .pixels = std::vector<uint8_t>(30000, 0)};
  EXPECT_THROW(model->read_images(std::span(&thread, 1), true), BadInput);
}

TEST(Bagel, TheOfficialSizesGiveTheOfficialRules) {
  BagelConfig config;
  config.vae.ch_mult = {1, 2, 4, 4};
  config.vit.patch_size = 14;
  EXPECT_EQ(config.latents_rule().max_size, 1024);
  EXPECT_EQ(config.latents_rule().min_size, 512);
  EXPECT_EQ(config.latents_rule().stride, 16);
  EXPECT_EQ(config.vision_rule().max_size, 980);
  EXPECT_EQ(config.vision_rule().min_size, 224);
  EXPECT_EQ(config.vision_rule().stride, 14);
}

TEST(Bagel, RowsOfACachedBatchDoNotSeeEachOther) {
  const auto model = tiny_bagel();
  std::vector<Context> together(3), alone(3);
  std::vector<Context*> rows;
  std::vector<std::vector<int64_t>> ids;
  for (int64_t i = 0; i < 3; ++i) {
    rows.push_back(&together[i]);
    ids.push_back(some_ids(2 + 5 * i, 10 + i));
  }
  const at::Tensor batch = model->append_text(rows, ids);
  std::vector<const Context*> readers;
  for (const Context& context : together) readers.push_back(&context);
  const at::Tensor x = noise(3, 9), t = at::tensor(std::vector<float>{0.9F, 0.5F, 0.2F});
  const at::Tensor v = model->denoise(readers, kGrid)->velocity(x, t);
  for (int64_t i = 0; i < 3; ++i) {
    Context* row = &alone[i];
    const at::Tensor one = model->append_text(std::span<Context* const>(&row, 1), std::span(&ids[i], 1));
    EXPECT_TRUE(close(batch[i], one[0], kSame));
    const Context* reader = row;
    EXPECT_TRUE(close(
        v[i], model->denoise(std::span(&reader, 1), kGrid)->velocity(x.narrow(0, i, 1), t.narrow(0, i, 1))[0], kSame));
  }
}

TEST(Bagel, ANoisyImageIsSeenByNoLaterToken) {
  const at::NoGradGuard no_grad;
  const auto model = tiny_bagel();
  TrainBatch batch{.prefixes = {{text(some_ids(4, 1))}}, .sequences = {{}}};
  batch.sequences[0].blocks = {noisy(noise(1, 1), {0.5}), text(some_ids(6, 2))};
  const at::Tensor with_one = model->forward_train(batch).text_hidden;
  batch.sequences[0].blocks[0] = noisy(noise(1, 2), {0.9});
  EXPECT_TRUE(close(model->forward_train(batch).text_hidden, with_one, kSame));
}

/// Gradients of the parameters from the images' part of a loss.
std::map<std::string, at::Tensor> image_gradients(Bagel& model, bool detach) {
  TrainBatch batch = ragged_batch();
  batch.detach_context = detach;
  for (NamedTensor& p : model.parameters()) p.tensor.mutable_grad().reset();
  const TrainOutput out = model.forward_train(batch);
  const at::Tensor upstream = tensor::normal(out.velocity.sizes(), {.seed = 77});
  (out.velocity * upstream).sum().backward();
  std::map<std::string, at::Tensor> grads;
  for (const NamedTensor& p : model.parameters()) {
    if (p.tensor.grad().defined()) grads[p.name] = p.tensor.grad().clone();
  }
  return grads;
}

/// The same gradients with context that carries none: keys and values from the cache.
at::Tensor detached_velocity(Bagel& model) {
  const at::NoGradGuard no_grad;
  TrainBatch batch = ragged_batch();
  batch.detach_context = true;
  return model.forward_train(batch).velocity;
}

TEST(Bagel, DetachedContextChangesNoValueAndCutsTheGradientIntoTheText) {
  const auto model = tiny_bagel();
  at::Tensor full_velocity;
  {
    const at::NoGradGuard no_grad;
    full_velocity = model->forward_train(ragged_batch()).velocity;
  }
  EXPECT_TRUE(close(detached_velocity(*model), full_velocity, kSame));
  const auto full = image_gradients(*model, false), cut = image_gradients(*model, true);

  // Embeddings of text are reached through the context alone; those of the image boundaries through
  // the block itself.
  const std::string embed = "language_model.model.embed_tokens.weight";
  at::Tensor rows_full = full.at(embed).abs().sum(1), rows_cut = cut.at(embed).abs().sum(1);
  const TrainBatch batch = ragged_batch();
  double reached = 0;
  for (const int64_t id : std::get<TextBlock>(batch.prefixes[0].front()).ids) {
    reached += rows_full[id].item<double>();
    EXPECT_EQ(rows_cut[id].item<double>(), 0) << id;
  }
  EXPECT_GT(reached, 0);
  EXPECT_GT(rows_cut.max().item<double>(), 0);

  // The image's own weights are trained as before in the last layer, whose hidden states nobody
  // reads again.
  for (const char* name : {"llm2vae.weight", "language_model.model.layers.2.self_attn.q_proj_moe_gen.weight",
                           "language_model.model.layers.2.mlp_moe_gen.down_proj.weight"}) {
    EXPECT_TRUE(close(cut.at(name), full.at(name), 1e-4, 1e-4)) << name;
  }
  // Keys of text in the last layer are reached through the boundary tokens alone now.
  const std::string key = "language_model.model.layers.2.self_attn.k_proj.weight";
  EXPECT_GT((cut.at(key) - full.at(key)).abs().max().item<double>(), 1e-3 * full.at(key).abs().max().item<double>());
}

TEST(Bagel, RecomputedActivationsChangeNoGradient) {
  PolicyConfig config;
  config.model = UNIGRPO_TEST_DATA "/bagel_tiny";
  config.recompute = true;
  const auto plain = tiny_bagel(), again = Bagel::load(config, {.seed = 5});
  for (const bool detach : {false, true}) {
    const auto want = image_gradients(*plain, detach), got = image_gradients(*again, detach);
    ASSERT_EQ(got.size(), want.size());
    for (const auto& [name, grad] : want) EXPECT_TRUE(close(got.at(name), grad, kSame)) << name;
  }
}

TEST(Bagel, DetachedContextLeavesTheTextsOwnGradientAlone) {
  const auto model = tiny_bagel();
  auto text_gradient = [&](bool detach) {
    TrainBatch batch = ragged_batch();
    batch.detach_context = detach;
    const TrainOutput out = model->forward_train(batch);
    const at::Tensor loss = model->logits(out.text_hidden).log_softmax(-1).select(1, 5).sum();
    return torch::autograd::grad({loss},
                                 {testing::parameter(*model, "language_model.model.layers.0.self_attn.v_proj.weight")})
        .at(0);
  };
  EXPECT_TRUE(close(text_gradient(true), text_gradient(false), 1e-4, 1e-4));
}

TEST(Bagel, RoomInTheCacheComesBack) {
  const auto model = tiny_bagel();
  Context context = read(*model, {}, some_ids(20, 1));
  const std::vector<int64_t> slots = context.slots;
  const Context* reader = &context;
  std::vector<int64_t> scratch;
  for (int round = 0; round < 3; ++round) {
    const auto denoiser = model->denoise(std::span(&reader, 1), kGrid);
    denoiser->velocity(noise(1, 1), at::ones({1}));
  }
  Context after = read(*model, {}, some_ids(1, 2));
  // Three denoisers of 18 tokens lived and went; the next block handed out is the one behind the
  // context's.
  EXPECT_EQ(after.slots[0] / KvCache::kBlockTokens, slots.back() / KvCache::kBlockTokens + 1);
  model->release(after);
  model->release(context);
}

class Lora : public ::testing::Test {
 protected:
  static at::Tensor outputs(Bagel& model) {
    const at::NoGradGuard no_grad;
    const TrainOutput out = model.forward_train(ragged_batch());
    return at::cat({model.logits(out.text_hidden).flatten(), out.velocity.flatten()});
  }
};

TEST_F(Lora, StartsAtTheBase) {
  EXPECT_TRUE(close(outputs(*tiny_bagel(TrainMode::lora)), outputs(*tiny_bagel()), kSame));
}

TEST_F(Lora, AdaptersOffIsTheBaseAndTheScopeEndsIt) {
  const auto model = tiny_bagel(TrainMode::lora);
  const at::Tensor base = outputs(*model);
  testing::randomize_adapters(*model);
  const at::Tensor adapted = outputs(*model);
  EXPECT_GT((adapted - base).abs().max().item<double>(), 1e-2);
  {
    const AdaptersOff off(*model);
    EXPECT_TRUE(close(outputs(*model), base, kSame));
  }
  EXPECT_TRUE(close(outputs(*model), adapted, 0));
}

TEST_F(Lora, MergedWeightsAreTheAdaptedModel) {
  const auto model = tiny_bagel(TrainMode::lora), plain = tiny_bagel();
  testing::randomize_adapters(*model);
  const NamedTensors merged = model->merged();
  EXPECT_EQ(merged.size(), plain->parameters().size());
  {
    const at::NoGradGuard no_grad;
    for (const NamedTensor& weight : merged) testing::parameter(*plain, weight.name).copy_(weight.tensor);
  }
  const at::Tensor want = outputs(*model);
  EXPECT_TRUE(close(outputs(*plain), want, kSame * want.abs().max().item<double>()));
}

TEST_F(Lora, OnlyAdaptersAreTrained) {
  const auto model = tiny_bagel(TrainMode::lora);
  int64_t adapters = 0;
  for (const NamedTensor& p : model->parameters()) {
    const bool adapter = p.name.find(".lora_") != std::string::npos;
    EXPECT_EQ(p.tensor.requires_grad(), adapter) << p.name;
    adapters += adapter ? 1 : 0;
  }
  EXPECT_EQ(adapters, 2 * 2 * 7 * 3);  // A and B, both experts, seven projections, three layers
}

TEST_F(Lora, DropoutActsWhereGradientsAreRecordedAndIsAFunctionOfTheBatch) {
  PolicyConfig config;
  config.model = UNIGRPO_TEST_DATA "/bagel_tiny";
  config.train = TrainMode::lora;
  config.lora = {.rank = 4, .alpha = 8, .dropout = 0.25};
  const auto model = Bagel::load(config, {.seed = 5});
  config.recompute = true;
  const auto again = Bagel::load(config, {.seed = 5});
  const auto plain = tiny_bagel(TrainMode::lora);
  for (Bagel* m : {model.get(), again.get(), plain.get()}) testing::randomize_adapters(*m);
  EXPECT_TRUE(close(outputs(*model), outputs(*plain), 0));  // without gradients: none

  const TrainBatch batch = ragged_batch();
  auto gradients = [&](Bagel& m, at::Tensor& velocity) {
    const TrainOutput out = m.forward_train(batch);
    velocity = out.velocity.detach();
    (out.velocity.square().mean() + m.logits(out.text_hidden).square().mean()).backward();
    std::vector<at::Tensor> list;
    for (const NamedTensor& p : m.parameters()) {
      if (p.tensor.requires_grad()) list.push_back(p.tensor.grad().flatten());
      p.tensor.mutable_grad() = at::Tensor();
    }
    return at::cat(list);
  };
  at::Tensor first_velocity, second_velocity, plain_velocity, recomputed_velocity;
  const at::Tensor first = gradients(*model, first_velocity), second = gradients(*model, second_velocity);
  const at::Tensor without = gradients(*plain, plain_velocity), recomputed = gradients(*again, recomputed_velocity);
  EXPECT_TRUE(close(first, second, 0));
  EXPECT_GT((first_velocity - plain_velocity).abs().max().item<double>(), 1e-3);
  EXPECT_TRUE(close(first_velocity, recomputed_velocity, kSame));
  EXPECT_TRUE(close(first, recomputed, kSame * first.abs().max().item<double>()));
  EXPECT_GT((first - without).abs().max().item<double>(), 1e-3 * without.abs().max().item<double>());

  TrainBatch other = batch;  // other texts, other masks
  ++std::get<TextBlock>(other.sequences[0].blocks[0]).ids.back();
  const at::Tensor moved = model->forward_train(other).velocity;
  EXPECT_GT((moved - first_velocity).abs().max().item<double>(), 1e-3);
}

TEST_F(Lora, DropoutBelongsToASequenceAndATokenWhateverElseIsInTheBatch) {
  PolicyConfig config;
  config.model = UNIGRPO_TEST_DATA "/bagel_tiny";
  config.train = TrainMode::lora;
  config.lora = {.rank = 4, .alpha = 8, .dropout = 0.25};
  const auto model = Bagel::load(config, {.seed = 5});
  testing::randomize_adapters(*model);
  const TrainBatch batch = ragged_batch();
  const TrainOutput whole = model->forward_train(batch);
  std::vector<at::Tensor> texts, velocities;
  for (const TrainSequence& sequence : batch.sequences) {
    TrainBatch alone = batch;
    alone.prefixes = {batch.prefixes[static_cast<size_t>(sequence.prefix)]};
    alone.sequences = {sequence};
    alone.sequences.front().prefix = 0;
    const TrainOutput out = model->forward_train(alone);
    if (out.text_hidden.defined()) texts.push_back(out.text_hidden);
    if (out.velocity.defined()) velocities.push_back(out.velocity);
  }
  EXPECT_TRUE(close(at::cat(texts), whole.text_hidden, kSame * whole.text_hidden.abs().max().item<double>()));
  EXPECT_TRUE(close(at::cat(velocities), whole.velocity, kSame * whole.velocity.abs().max().item<double>()));
  TrainBatch later = batch;
  later.update = 1;
  EXPECT_GT((model->forward_train(later).velocity - whole.velocity).abs().max().item<double>(), 1e-3);
}

TEST(Bagel, GridsFitTheModel) {
  const auto model = tiny_bagel();
  EXPECT_EQ(model->grid_for(64), kGrid);
  EXPECT_EQ(model->grid_for(128), (LatentGrid{8, 8}));
  for (const int64_t size : {0, 8, 65, 144}) EXPECT_THROW(model->grid_for(size), BadInput) << size;
}

}  // namespace
}  // namespace unigrpo::policy

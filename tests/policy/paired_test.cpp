#include "policy/paired/paired.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/atomic_file.h"
#include "policy/load.h"
#include "support/tensors.h"
#include "support/tiny_pair.h"

namespace unigrpo::policy {
namespace {

namespace fs = std::filesystem;
using testing::close;
using testing::message_of;

const fs::path kData = UNIGRPO_TEST_DATA;
constexpr LatentGrid kGrid{4, 4};
constexpr double kSame = 1e-5;  // float32: other batches and the packed forward sum in other orders

at::Tensor noise(int64_t states, uint64_t seed) { return tensor::normal({states, 16, 64}, {.seed = seed}); }

Block clean(uint64_t seed) { return LatentBlock{noise(1, seed)[0], kGrid}; }

Block seen(uint64_t seed) { return VisionBlock{tensor::normal({3, 56, 42}, {.seed = seed}).clamp(-1, 1), {4, 3}}; }

Block noisy(int64_t states, uint64_t seed) {
  return NoisyBlock{noise(states, seed), at::linspace(0.9, 0.3, states, at::kFloat), kGrid};
}

PolicyConfig config_for(const fs::path& folder) {
  PolicyConfig config;
  config.model = folder.string();
  return config;
}

class PairedTest : public ::testing::Test {
 protected:
  Block text(const std::string& words) const { return TextBlock{block_ids(*model, words)}; }

  /// Texts alone; drawing; an image to edit, drawn, looked at and drawn again; no text of its own.
  TrainBatch batch() const {
    TrainBatch batch;
    batch.prefixes = {{text("a red circle")}, {clean(1), seen(2), text("make it green")}, {}};
    batch.sequences = {
        {.prefix = 0, .blocks = {text("think of red")}},
        {.prefix = 0, .blocks = {text("circles"), noisy(2, 3)}},
        {.prefix = 1, .blocks = {text("green"), noisy(1, 4), clean(5), seen(6), text("more"), noisy(2, 7)}},
        {.prefix = 1, .blocks = {noisy(3, 8)}},
        {.prefix = 2, .blocks = {noisy(1, 9)}}};
    return batch;
  }

  /// What a context reads, block by block as sampling does: texts token by token, images whole.
  template <typename Policy>
  static void read(Policy& policy, Context& context, const Block& block) {
    Context* row = &context;
    const std::span<Context* const> rows(&row, 1);
    const auto* written = std::get_if<TextBlock>(&block);
    if (!written) return policy.append_images(rows, std::span(&block, 1));
    for (const int64_t id : written->ids) {
      const std::vector<int64_t> one = {id};
      policy.append_text(rows, std::span(&one, 1));
    }
  }

  const testing::PairFolder folder;
  const std::unique_ptr<Paired> model = folder.load();
};

TEST_F(PairedTest, TheTextModelWritesAsItDoesAlone) {
  const auto alone = Qwen2::load(config_for(kData / "qwen2_tiny"), {});
  // A prompt with an image, two texts of one length: the image changes no logit.
  std::vector<Context> ours(2), theirs(2);
  read(*model, ours[1], clean(1));
  read(*model, ours[1], seen(2));
  std::vector<Context*> rows = {&ours[0], &ours[1]}, rows_alone = {&theirs[0], &theirs[1]};
  const auto first = block_ids(*model, "a red circle"), second = block_ids(*model, "a red square");
  for (size_t t = 0; t < std::min(first.size(), second.size()); ++t) {
    const std::vector<std::vector<int64_t>> ids = {{first[t]}, {second[t]}};
    EXPECT_TRUE(close(model->append_text(rows, ids), alone->append_text(rows_alone, ids), 0)) << t;
  }
  for (Context& context : ours) model->release(context);

  const at::NoGradGuard no_grad;
  TrainBatch texts = batch();
  auto is_image = [](const Block& block) { return !std::holds_alternative<TextBlock>(block); };
  for (auto& prefix : texts.prefixes) std::erase_if(prefix, is_image);
  for (auto& sequence : texts.sequences) std::erase_if(sequence.blocks, is_image);
  EXPECT_TRUE(close(model->logits(model->forward_train(batch()).text_hidden),
                    alone->logits(alone->forward_train(texts).text_hidden), kSame));
}

TEST_F(PairedTest, TheImageModelDrawsAsItDoesAlone) {
  const auto alone = Bagel::load(config_for(kData / "bagel_tiny"), {});
  const std::vector<Block> blocks = {clean(1), seen(2), text("make it green"), text("think"),
                                     clean(3), seen(4), text("more")};
  Context ours, theirs;
  for (const Block& block : blocks) {
    read(*model, ours, block);
    read(*alone, theirs, block);
  }
  EXPECT_EQ(ours.slots.size(), theirs.slots.size());
  EXPECT_EQ(ours.position, theirs.position);
  const Context nothing, *reader = &ours, *reader_alone = &theirs, *empty = &nothing;
  const at::Tensor x = noise(1, 5), t = at::full({1}, 0.7, at::kFloat);
  const at::Tensor want = alone->denoise(std::span(&reader_alone, 1), kGrid)->velocity(x, t);
  EXPECT_TRUE(close(model->denoise(std::span(&reader, 1), kGrid)->velocity(x, t), want, kSame));
  EXPECT_TRUE(close(model->denoise(std::span(&empty, 1), kGrid)->velocity(x, t),
                    alone->denoise(std::span(&empty, 1), kGrid)->velocity(x, t), kSame));
  model->release(ours);
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(close(model->forward_train(batch()).velocity, alone->forward_train(batch()).velocity, 0));
}

TEST_F(PairedTest, TheCachedPathSaysWhatTheTrainingForwardSays) {
  const at::NoGradGuard no_grad;
  const TrainBatch all = batch();
  const TrainOutput out = model->forward_train(all);
  const at::Tensor logits = model->logits(out.text_hidden);
  std::vector<Context> prefixes(all.prefixes.size());
  for (size_t p = 0; p < prefixes.size(); ++p) {
    for (const Block& block : all.prefixes[p]) read(*model, prefixes[p], block);
  }
  int64_t row = 0, state = 0;
  for (size_t s = 0; s < all.sequences.size(); ++s) {
    Context context = model->fork(prefixes[all.sequences[s].prefix]);
    Context* writer = &context;
    const Context* reader = &context;
    for (size_t k = 0; k < all.sequences[s].blocks.size(); ++k) {
      const Block& block = all.sequences[s].blocks[k];
      if (const auto* states = std::get_if<NoisyBlock>(&block)) {
        const auto denoiser = model->denoise(std::span(&reader, 1), kGrid);
        for (int64_t i = 0; i < states->latents.size(0); ++i, ++state) {
          const at::Tensor velocity = denoiser->velocity(states->latents.narrow(0, i, 1), states->t.narrow(0, i, 1));
          EXPECT_TRUE(close(velocity[0], out.velocity[state], kSame)) << "state " << state;
        }
      } else if (const auto* written = std::get_if<TextBlock>(&block)) {
        for (const int64_t id : written->ids) {
          const std::vector<int64_t> one = {id};
          const at::Tensor cached = model->append_text(std::span<Context* const>(&writer, 1), std::span(&one, 1));
          EXPECT_TRUE(close(cached[0], logits[row], kSame)) << "text row " << row;
          ++row;
        }
      } else {
        read(*model, context, block);
      }
      EXPECT_EQ(context.digest, out.digests[s][k]) << "sequence " << s << ", block " << k;
    }
    model->release(context);
  }
  EXPECT_EQ(row, out.text_hidden.size(0));
  EXPECT_EQ(state, out.velocity.size(0));
  for (Context& prefix : prefixes) model->release(prefix);
}

TEST_F(PairedTest, TheDigestIsOfBothHalves) {
  // An image that only one half reads, and texts that both do.
  Context plain, pictured, longer;
  for (Context* context : {&plain, &pictured, &longer}) read(*model, *context, text("a red circle"));
  const ContextDigest before = plain.digest;
  read(*model, pictured, clean(1));
  read(*model, longer, text("a"));
  EXPECT_NE(pictured.digest.latents, before.latents);
  EXPECT_EQ(pictured.digest.token_ids, before.token_ids);
  EXPECT_NE(longer.digest.token_ids, before.token_ids);
  EXPECT_NE(longer.digest.position_ids, before.position_ids);
  for (Context* context : {&plain, &pictured, &longer}) model->release(*context);
}

TEST_F(PairedTest, AnImageWithinAnOpenTextBlockIsRefused) {
  Context context;
  Context* row = &context;
  const std::vector<int64_t> open = {model->bos_id(), 7};
  model->append_text(std::span<Context* const>(&row, 1), std::span(&open, 1));
  const Block image = clean(1);
  const Context* reader = &context;
  EXPECT_THROW(model->append_images(std::span<Context* const>(&row, 1), std::span(&image, 1)), std::invalid_argument);
  EXPECT_THROW(model->denoise(std::span(&reader, 1), kGrid), std::invalid_argument);
  // A fork goes on within the block.
  Context fork = model->fork(context);
  read(*model, fork, TextBlock{{model->eos_id()}});
  EXPECT_EQ(fork.slots.size(), 3U);
  model->release(fork);
  model->release(context);
}

/// The names that have a gradient that is not 0.
std::set<std::string> reached(Paired& model, const at::Tensor& loss) {
  for (NamedTensor& p : model.parameters()) p.tensor.mutable_grad().reset();
  loss.backward();
  std::set<std::string> names;
  for (const NamedTensor& p : model.parameters()) {
    if (p.tensor.grad().defined() && p.tensor.grad().abs().max().item<double>() > 0) names.insert(p.name);
  }
  return names;
}

TEST_F(PairedTest, GradientsReachTheirOwnHalf) {
  {
    const at::NoGradGuard no_grad;  // llm2vae of a fresh model is 0, and this one is no fresh model; make sure
    ASSERT_GT(testing::parameter(*model, "image.llm2vae.weight").abs().max().item<double>(), 0);
  }
  auto text_loss = [&](const TrainOutput& out) {
    return model->logits(out.text_hidden).log_softmax(-1).select(1, 5).sum();
  };
  const auto by_text = reached(*model, text_loss(model->forward_train(batch())));
  EXPECT_EQ(by_text.size(), 3U + 2 * 12);  // every parameter of qwen2_tiny
  for (const std::string& name : by_text) EXPECT_TRUE(name.starts_with("text.")) << name;
  const auto by_image = reached(*model, model->forward_train(batch()).velocity.square().sum());
  for (const std::string& name : by_image) EXPECT_TRUE(name.starts_with("image.")) << name;
  for (const char* name : {"image.llm2vae.weight", "image.language_model.model.embed_tokens.weight",
                           "image.language_model.model.layers.0.mlp_moe_gen.up_proj.weight",
                           "image.language_model.model.layers.0.self_attn.k_proj.weight"}) {
    EXPECT_TRUE(by_image.contains(name)) << name;
  }
  TrainBatch detached = batch();
  detached.detach_context = true;
  const TrainOutput out = model->forward_train(detached);
  EXPECT_EQ(reached(*model, text_loss(out) + out.velocity.square().sum()).count("text.lm_head.weight"), 1U);
}

std::set<std::string> trained(const PolicyConfig& config) {
  std::set<std::string> names;
  for (const NamedTensor& p : Paired::load(config, {.seed = 5})->parameters()) {
    if (p.tensor.requires_grad()) names.insert(p.name);
  }
  return names;
}

TEST_F(PairedTest, PatternsFitNamesWithTheHalfsPrefixAndWithout) {
  PolicyConfig config = folder.config();
  auto names = trained(config);
  EXPECT_TRUE(names.contains("text.model.embed_tokens.weight"));
  EXPECT_TRUE(names.contains("image.vae2llm.weight"));
  EXPECT_FALSE(names.contains("image.language_model.lm_head.weight")) << "the writing head is not used";
  for (const std::string& name : names)
    EXPECT_FALSE(name.starts_with("image.vit_model.")) << name << ": frozen by default";
  config.freeze = {"image.*"};
  for (const std::string& name : trained(config)) EXPECT_TRUE(name.starts_with("text.")) << name;
  config.freeze = {"*"};
  EXPECT_TRUE(trained(config).empty());

  config = folder.config(TrainMode::lora);
  EXPECT_EQ(trained(config).size(), 2U * 7 * (2 + 2 * 3));  // A and B of 7 projections: 2 layers; 3 of two experts
  config.lora.targets = {"*_moe_gen.weight", "image.vit_model.*"};  // which have no adapters
  EXPECT_THROW(trained(config), BadInput);
  config.lora.targets = {"*_moe_gen.weight"};
  names = trained(config);
  EXPECT_FALSE(names.empty());
  for (const std::string& name : names) {
    EXPECT_TRUE(name.starts_with("image.language_model.model.layers.") &&
                name.find("_moe_gen.lora_") != std::string::npos)
        << name;
  }
  config.lora.targets = {"text.*q_proj.weight"};
  EXPECT_EQ(trained(config), (std::set<std::string>{"text.model.layers.0.self_attn.q_proj.lora_A.weight",
                                                    "text.model.layers.0.self_attn.q_proj.lora_B.weight",
                                                    "text.model.layers.1.self_attn.q_proj.lora_A.weight",
                                                    "text.model.layers.1.self_attn.q_proj.lora_B.weight"}));
  config.lora.targets = {"text.vae2llm.weight", "*embed_tokens*"};
  EXPECT_EQ(message_of<BadInput>([&] { Paired::load(config, {.seed = 5}); }),
            "policy.lora.targets: no weight of the model matches [text.vae2llm.weight, *embed_tokens*]");
}

TEST_F(PairedTest, AdaptersOfBothHalvesGoOffAndMerge) {
  const at::NoGradGuard no_grad;
  auto outputs = [&](Paired& policy) {
    const TrainOutput out = policy.forward_train(batch());
    return at::cat({policy.logits(out.text_hidden).flatten(), out.velocity.flatten()});
  };
  const auto adapted = folder.load(TrainMode::lora);
  const at::Tensor base = outputs(*model);
  EXPECT_TRUE(close(outputs(*adapted), base, kSame));
  const uint64_t version = adapted->weights_version();
  testing::randomize_adapters(*adapted);
  EXPECT_NE(adapted->weights_version(), version);
  const at::Tensor moved = outputs(*adapted), change = (moved - base).abs();
  const int64_t of_text = model->forward_train(batch()).text_hidden.size(0) * 408;
  EXPECT_GT(change.narrow(0, 0, of_text).max().item<double>(), 1e-2);
  EXPECT_GT(change.narrow(0, of_text, change.numel() - of_text).max().item<double>(), 1e-2);
  const uint64_t on = adapted->adapter_state();
  {
    const AdaptersOff off(*adapted);
    EXPECT_NE(adapted->adapter_state(), on);
    EXPECT_TRUE(close(outputs(*adapted), base, kSame));
  }
  EXPECT_EQ(adapted->adapter_state(), on);
  EXPECT_NE(on, model->adapter_state());
  for (const NamedTensor& weight : adapted->merged()) testing::parameter(*model, weight.name).copy_(weight.tensor);
  EXPECT_TRUE(close(outputs(*model), moved, kSame * moved.abs().max().item<double>()));
}

TEST_F(PairedTest, RecomputedActivationsChangeNoGradient) {
  auto gradients = [&](Paired& policy) {
    const TrainOutput out = policy.forward_train(batch());
    (policy.logits(out.text_hidden).log_softmax(-1).select(1, 5).sum() + out.velocity.square().sum()).backward();
    return std::pair(testing::parameter(policy, "text.model.layers.0.mlp.up_proj.weight").grad(),
                     testing::parameter(policy, "image.language_model.model.layers.0.mlp.up_proj.weight").grad());
  };
  PolicyConfig config = folder.config();
  config.recompute = true;
  const auto again = Paired::load(config, {.seed = 5});
  const auto want = gradients(*model), got = gradients(*again);
  EXPECT_TRUE(close(got.first, want.first, kSame * want.first.abs().max().item<double>()));
  EXPECT_TRUE(close(got.second, want.second, kSame * want.second.abs().max().item<double>()));
}

TEST_F(PairedTest, APictureThatOnlyTheTextModelWouldReadIsRefused) {
  const Image image{.width = 64, .height = 64, .pixels = std::vector<uint8_t>(64 * 64 * 3, 100)};
  EXPECT_EQ(model->read_images(std::span(&image, 1), true).front().size(), 2U);
  EXPECT_EQ(message_of<BadInput>([&] { model->read_images(std::span(&image, 1), false); }),
            folder.path().string() +
                ": the text model of a pair sees no images; a prompt with one needs an episode with an image");
  EXPECT_TRUE(model->read_images({}, false).empty());
}

class BadPair : public PairedTest {
 protected:
  std::string message() const {
    return message_of<BadInput>([&] { load(config_for(folder.path()), {}); });
  }
  std::string with_config(const std::string& text) const {
    io::write_file_atomic(config, std::string_view(text));
    return message();
  }
  /// Puts a copy of tests/data/`source` in place of a half.
  fs::path replace(const std::string& half, const std::string& source) const {
    fs::remove_all(folder.path() / half);
    fs::copy(kData / source, folder.path() / half, fs::copy_options::recursive);
    return folder.path() / half;
  }
  static void edit(const fs::path& file, const std::string& from, const std::string& to) {
    std::string text = io::read_text_file(file);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    io::write_file_atomic(file, std::string_view(text.replace(at, from.size(), to)));
  }

  const fs::path config = folder.path() / "config.json";
  const std::string file = config.string();
};

TEST_F(BadPair, KeysAndFoldersAreNamed) {
  EXPECT_EQ(message(), "nothing");
  EXPECT_EQ(with_config(R"({"model_type": "unigrpo_pair", "image": "image"})"),
            file + ": 'text' is missing (the folder of a Qwen2.5 model beside this file)");
  EXPECT_EQ(with_config(R"({"model_type": "unigrpo_pair", "text": "text"})"),
            file + ": 'image' is missing (the folder of a BAGEL model beside this file)");
  EXPECT_EQ(with_config(R"({"model_type": "unigrpo_pair", "text": 3, "image": "image"})"),
            file + ": 'text' must be a string, got 3");
  for (const std::string where : {"../text", "/models/text", "..", ".", "", "a/b"}) {
    EXPECT_EQ(with_config(R"({"model_type": "unigrpo_pair", "text": ")" + where + R"(", "image": "image"})"),
              file + ": 'text' must be the name of a folder beside this file, got \"" + where + "\"");
  }
  EXPECT_EQ(with_config(R"({"model_type": "unigrpo_pair", "text": "writer/", "image": "image"})"),
            file + ": 'text' is \"writer\", and there is no such folder (expected a Qwen2.5 model)");
}

TEST_F(BadPair, EachHalfMustBeOfItsFamily) {
  EXPECT_EQ(with_config(R"({"model_type": "unigrpo_pair", "text": "image", "image": "text"})"),
            (folder.path() / "image").string() + ": a bagel model; this needs a Qwen2.5 folder");
  EXPECT_EQ(with_config(R"({"model_type": "unigrpo_pair", "text": "text", "image": "text"})"),
            (folder.path() / "text").string() + ": a qwen2 model; this needs a BAGEL folder");
  EXPECT_EQ(message_of<BadInput>([&] { read_bagel_config(folder.path()); }),
            folder.path().string() + ": a unigrpo_pair model; this needs a BAGEL folder");
  EXPECT_EQ(message_of<BadInput>([&] { read_pair_config(kData / "bagel_tiny"); }),
            (kData / "bagel_tiny").string() + ": a bagel model; this needs a pair of models");
}

TEST_F(BadPair, AMissingFileOfAHalfIsNamed) {
  const fs::path text = replace("text", "qwen2_tiny");
  EXPECT_EQ(message(), "nothing");
  fs::remove(text / "model.safetensors");
  EXPECT_EQ(message(), text.string() + ": no model.safetensors (or *.safetensors.index.json) in this model folder");
}

TEST_F(BadPair, TokenizersThatDifferAreNamedByWhatDiffers) {
  const std::string differ = folder.path().string() + ": the halves' tokenizers differ, and both read the same ids: ";
  const fs::path text = replace("text", "qwen2_tiny");
  const auto tokenizer = fs::path(text / "vocab.json");
  const std::string vocabulary = io::read_text_file(tokenizer);
  // Two letters that have changed places.
  edit(tokenizer, "\"a\": ", "\"@@\": ");
  edit(tokenizer, "\"b\": ", "\"a\": ");
  edit(tokenizer, "\"@@\": ", "\"b\": ");
  EXPECT_TRUE(message().starts_with(differ + "id ")) << message();
  io::write_file_atomic(tokenizer, std::string_view(vocabulary));
  EXPECT_EQ(message(), "nothing");
  // The same tokens, cut in another way: without its rule a token is never made.
  const std::string merges = io::read_text_file(text / "merges.txt");
  const size_t last = merges.find_last_of('\n', merges.size() - 2);
  io::write_file_atomic(text / "merges.txt", std::string_view(merges).substr(0, last + 1));
  EXPECT_TRUE(message().starts_with(differ)) << message();
  EXPECT_NE(message().find("to the text model ["), std::string::npos) << message();
  fs::remove_all(text);
  replace("text", "../../recipes/sums_model");
  EXPECT_EQ(message(), differ + "'<|endoftext|>' is to the text model 13, to the image model 400");
}

TEST_F(BadPair, ATextModelWithMoreIdsThanTheImageModelIsRefused) {
  const fs::path text = replace("text", "qwen2_tiny");
  edit(text / "config.json", "\"vocab_size\": 408", "\"vocab_size\": 449");
  EXPECT_EQ(message(), folder.path().string() +
                           ": the text model may write any of 449 ids (vocab_size), the image model reads 448");
}

TEST_F(BadPair, SizesAreAskedOfTheHalves) {
  EXPECT_EQ(message_of<BadInput>([&] { read_sizes(folder.path()); }),
            folder.path().string() + ": a pair of models; ask about its halves, text and image, one by one");
}

}  // namespace
}  // namespace unigrpo::policy

#include "rollout/engine.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/error.h"
#include "flow/guidance.h"
#include "flow/ode_step.h"
#include "grpo/pack.h"
#include "grpo/update.h"
#include "io/image_codec.h"
#include "optim/adamw.h"
#include "rollout/flow_sampler.h"
#include "rollout/text_decoder.h"
#include "support/pretend_graph.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "support/tiny_rollout.h"

namespace unigrpo::rollout {
namespace {

using testing::close;
using testing::kImage;
using testing::kText;
using testing::prompts;
using testing::request;
using testing::tiny_rollout;

constexpr double kSame = 1e-5;  // float32; other batches sum in other orders

class Engine : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    model = testing::tiny_bagel().release();
    testing::make_texts_end(*model);
  }
  static void TearDownTestSuite() { delete model; }

  static std::vector<Trajectory> roll(const RolloutConfig& config, const RolloutRequest& what, uint64_t seed = 11) {
    return RolloutEngine(*model, config, {.seed = seed}, "").rollout(what);
  }
  static const TextSegment& text(const Trajectory& t, size_t turn = 0) { return t.texts.at(turn); }
  static const FlowSegment& image(const Trajectory& t, size_t turn = 0) { return t.flows.at(turn); }
  static const FlowStream& stream(const Trajectory& t, size_t turn = 0) { return image(t, turn).stream(); }
  static void expect_same_blocks(const std::vector<policy::Block>& a, const std::vector<policy::Block>& b,
                                 double same) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t k = 0; k < a.size(); ++k) {
      ASSERT_EQ(a[k].index(), b[k].index());
      if (const auto* written = std::get_if<policy::TextBlock>(&a[k])) {
        EXPECT_EQ(written->ids, std::get<policy::TextBlock>(b[k]).ids);
      } else if (const auto* clean = std::get_if<policy::LatentBlock>(&a[k])) {
        EXPECT_EQ(clean->grid, std::get<policy::LatentBlock>(b[k]).grid);
        EXPECT_TRUE(close(clean->latents, std::get<policy::LatentBlock>(b[k]).latents, same));
      } else {
        const auto &one = std::get<policy::VisionBlock>(a[k]), &other = std::get<policy::VisionBlock>(b[k]);
        EXPECT_EQ(one.grid, other.grid);
        EXPECT_TRUE(close(one.pixels, other.pixels, 1 / 120.0));  // a byte may round the other way
      }
    }
  }
  static void expect_same(const Trajectory& a, const Trajectory& b, double same = kSame) {
    ASSERT_EQ(a.segments, b.segments);
    ASSERT_EQ(a.texts.size(), b.texts.size());
    ASSERT_EQ(a.flows.size(), b.flows.size());
    expect_same_blocks(a.prefix, b.prefix, same);
    EXPECT_EQ(a.sample.id, b.sample.id);
    for (size_t n = 0; n < a.texts.size(); ++n) {
      EXPECT_EQ(text(a, n).ids, text(b, n).ids) << a.sample.id;
      EXPECT_EQ(text(a, n).finished, text(b, n).finished);
      EXPECT_TRUE(close(text(a, n).log_probs, text(b, n).log_probs, same));
      EXPECT_TRUE(close(text(a, n).entropy, text(b, n).entropy, same));
    }
    for (size_t n = 0; n < a.flows.size(); ++n) {
      EXPECT_EQ(image(a, n).window.first, image(b, n).window.first);
      ASSERT_EQ(image(a, n).streams.size(), 1U);
      EXPECT_EQ(stream(a, n).modality, "image");
      EXPECT_TRUE(close(stream(a, n).latents, stream(b, n).latents, same));
      EXPECT_TRUE(close(stream(a, n).final_latent, stream(b, n).final_latent, same));
      EXPECT_TRUE(close(stream(a, n).log_probs, stream(b, n).log_probs, same));
      expect_same_blocks(image(a, n).context, image(b, n).context, same);
    }
  }

  static policy::Bagel* model;
  const std::vector<data::Prompt> three = prompts({"a red circle", "two squares beside a star", "a star"});
};
policy::Bagel* Engine::model = nullptr;

TEST_F(Engine, TheCacheIsMadeOnceAndKeptBetweenRollouts) {
  RolloutConfig config = tiny_rollout();
  config.max_tokens = 30;
  config.num_steps = 2;
  const auto fresh = testing::tiny_bagel();  // whose texts hardly end by themselves: all that is reserved is needed
  EXPECT_EQ(fresh->cache().allocations(), 0);
  RolloutEngine engine(*fresh, config, {.seed = 11, .threads = 1}, "");
  const auto first = engine.rollout(request(three, 8));
  EXPECT_EQ(fresh->cache().allocations(), 1);
  fresh->reserve(1025);  // more than the smallest pool, and there
  EXPECT_EQ(fresh->cache().allocations(), 1);
  EXPECT_EQ(fresh->cache().tokens_in_use(), 0);
  const auto again = engine.rollout(request(three, 8));
  EXPECT_EQ(fresh->cache().allocations(), 1);
  for (size_t i = 0; i < first.size(); ++i) expect_same(again[i], first[i], 0);
  engine.rollout(request(three, 14));  // a larger one
  EXPECT_EQ(fresh->cache().allocations(), 2);
  engine.rollout(request(three, 14));
  EXPECT_EQ(fresh->cache().allocations(), 2);
}

TEST_F(Engine, WhatImagesReadAgainAskForIsKeptToo) {
  RolloutConfig config = tiny_rollout();
  config.num_steps = 2;
  config.episode = {kImage, kText};  // 64 patches an image, and latents
  const auto fresh = testing::tiny_bagel();
  RolloutEngine engine(*fresh, config, {.seed = 11, .threads = 1}, "");
  engine.rollout(request(three, 5));
  EXPECT_EQ(fresh->cache().allocations(), 2);
  engine.rollout(request(three, 5));
  EXPECT_EQ(fresh->cache().allocations(), 2);
}

TEST_F(Engine, TheBudgetBoundsWhatIsReserved) {
  RolloutConfig config = tiny_rollout();
  config.max_tokens = 40;
  config.num_steps = 2;
  config.token_budget = 400;
  const auto fresh = testing::tiny_bagel();
  RolloutEngine engine(*fresh, config, {.seed = 11, .threads = 1}, "");
  engine.rollout(request(three, 9));
  EXPECT_EQ(fresh->cache().allocations(), 1);
  fresh->reserve(1024);  // is there, and no more
  EXPECT_EQ(fresh->cache().allocations(), 1);
  fresh->reserve(1025);
  EXPECT_EQ(fresh->cache().allocations(), 2);
}

/// Steps that are recorded on the CPU, by what stands in for a GPU's graphs.
struct Walked {
  std::vector<TextSegment> texts;
  std::vector<FlowSegment> images;
};

Walked walked(policy::Bagel& policy, const RolloutConfig& config, double text_scale) {
  constexpr size_t kRows = 5;
  std::vector<policy::Context> contexts(kRows), nothing(kRows);
  std::vector<TextRow> texts;
  for (size_t i = 0; i < kRows; ++i) {
    texts.emplace_back(&contexts[i], StreamKey{.seed = 7, .sample = i, .purpose = Purpose::text_sampling},
                       static_cast<int64_t>(8 + 6 * i));
  }
  for (;;) {
    std::vector<TextRow*> active;
    for (TextRow& text : texts) {
      if (!text.finished) active.push_back(&text);
    }
    if (active.empty()) break;
    decode_step(policy, active, 1.2);
  }
  Walked result;
  std::vector<DenoiseRequest> rows;
  for (size_t i = 0; i < kRows; ++i) {
    result.texts.push_back(texts[i].segment);
    rows.push_back({.context = &contexts[i],
                    .without_text = &nothing[i],
                    .key = {.seed = 7, .sample = i},
                    .window = {.first = static_cast<int64_t>(i % 2), .last = static_cast<int64_t>(2 + i % 2)}});
  }
  flow::GuidanceConfig guidance;
  guidance.text_scale = text_scale;
  result.images = denoise(policy, config, rows, policy.grid_for(config.image_size), guidance, {});
  for (policy::Context& context : contexts) policy.release(context);
  return result;
}

TEST_F(Engine, RecordedStepsHaveThePlainOnesBits) {
  RolloutConfig config = tiny_rollout();
  config.num_steps = 6;
  const auto fresh = testing::tiny_bagel();  // whose texts hardly end by themselves
  for (const double scale : {1.0, 3.0}) {
    const Walked plain = walked(*fresh, config, scale);
    testing::GraphCounts counts;
    fresh->use_graphs(testing::pretend_graphs(counts));
    const Walked recorded = walked(*fresh, config, scale);
    fresh->use_graphs({});
    EXPECT_GT(counts.records, scale > 1 ? 3 : 2);  // numbers of rows, and the steps of images
    EXPECT_GT(counts.plays, counts.records);
    for (size_t i = 0; i < plain.texts.size(); ++i) {
      EXPECT_EQ(recorded.texts[i].ids, plain.texts[i].ids);
      EXPECT_TRUE(at::equal(recorded.texts[i].log_probs, plain.texts[i].log_probs));
      EXPECT_TRUE(at::equal(recorded.texts[i].entropy, plain.texts[i].entropy));
      const FlowStream &got = recorded.images[i].stream(), &want = plain.images[i].stream();
      EXPECT_TRUE(at::equal(got.latents, want.latents));
      EXPECT_TRUE(at::equal(got.velocities, want.velocities));
      EXPECT_TRUE(at::equal(got.log_probs, want.log_probs));
      EXPECT_TRUE(at::equal(got.final_latent, want.final_latent));
    }
  }
}

TEST_F(Engine, WhatWasRecordedGoesWhenTheCacheMoves) {
  testing::GraphCounts counts;
  const auto fresh = testing::tiny_bagel();
  fresh->use_graphs(testing::pretend_graphs(counts));
  policy::Context row;
  const std::vector<std::vector<int64_t>> one = {{7}};
  policy::Context* rows[] = {&row};
  for (int i = 0; i < 6; ++i) fresh->append_text(rows, one);
  EXPECT_EQ(counts.records, 1);
  const int64_t before = fresh->cache().allocations();
  fresh->reserve(1 << 14);
  EXPECT_EQ(fresh->cache().allocations(), before + 1);
  for (int i = 0; i < 6; ++i) fresh->append_text(rows, one);
  EXPECT_EQ(counts.records, 2);
}

TEST_F(Engine, TrajectoriesComeGroupByGroupWithWhatTrainingNeeds) {
  const auto all = roll(tiny_rollout(), request(three, 4));
  ASSERT_EQ(all.size(), 12U);
  int ended = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const Trajectory& t = all[i];
    EXPECT_EQ(t.prompt_index, static_cast<int64_t>(i / 4));
    EXPECT_EQ(t.sample_index, static_cast<int64_t>(i % 4));
    EXPECT_EQ(t.sample.id, std::to_string(i / 4) + "/" + std::to_string(i % 4));
    ASSERT_EQ(t.segments.size(), 2U);
    const auto k = static_cast<int64_t>(text(t).ids.size());
    EXPECT_EQ(text(t).log_probs.sizes(), (at::IntArrayRef{k}));
    EXPECT_EQ(text(t).entropy.sizes(), (at::IntArrayRef{k}));
    EXPECT_LE(text(t).log_probs.max().item<double>(), 0);
    ended += text(t).finished ? 1 : 0;
    EXPECT_EQ(text(t).finished, text(t).ids.back() == model->eos_id());
    EXPECT_EQ(t.sample.segments[0].num_tokens, k);
    EXPECT_EQ(stream(t).latents.sizes(), (at::IntArrayRef{3, 16, 64}));
    EXPECT_EQ(image(t).window.width(), 2);
    EXPECT_EQ(image(t).window.first, image(all[i / 4 * 4]).window.first) << "a group shares its window";
    EXPECT_EQ(t.sample.segments[1].image.width, 64);
    EXPECT_EQ(t.sample.segments[1].image.pixels.size(), 64U * 64 * 3);
  }
  EXPECT_GT(ended, 0);  // make_texts_end: both kinds are there
  EXPECT_LT(ended, 12);
}

TEST_F(Engine, AnyNumberOfWorkersGivesTheSameBits) {
  RolloutConfig config = tiny_rollout();
  config.episode = {kText, kImage, kText, kImage};
  const auto five = prompts({"a red circle", "two squares beside a star", "a star", "a blue star", "a circle"});
  RolloutRequest what = request(five, 7);
  what.guidance.text_scale = 2;
  const auto small = testing::embedded_bagel();
  ASSERT_TRUE(policy::is_small(*small));
  const auto with_threads = [&](int64_t threads, const RolloutConfig& how) {
    std::vector<int> calls(5);
    what.on_group = [&](int64_t p, const std::vector<data::Sample>& group) {
      ++calls.at(p);
      EXPECT_EQ(group.size(), 7U);
      EXPECT_EQ(group.front().group, p);
    };
    auto all = RolloutEngine(*small, how, {.seed = 11, .threads = threads}, "draw").rollout(what);
    EXPECT_EQ(calls, std::vector<int>(5, 1)) << threads;
    return all;
  };
  const auto one = with_threads(1, config);
  ASSERT_EQ(one.size(), 35U);
  RolloutConfig tight = config;
  tight.token_budget = 600;
  for (const auto& [threads, how] : {std::pair(2, config), {3, config}, {9, config}, {2, tight}}) {
    const auto all = with_threads(threads, how);
    ASSERT_EQ(all.size(), one.size());
    for (size_t i = 0; i < all.size(); ++i) {
      expect_same(all[i], one[i], 0);
      for (size_t n = 0; n < all[i].flows.size(); ++n) {
        EXPECT_TRUE(at::equal(stream(all[i], n).velocities, stream(one[i], n).velocities));
        EXPECT_EQ(first_difference(image(all[i], n).fingerprint, image(one[i], n).fingerprint), "");
        EXPECT_EQ(first_difference(text(all[i], n).fingerprint, text(one[i], n).fingerprint), "");
      }
      for (size_t k = 0; k < all[i].sample.segments.size(); ++k) {
        EXPECT_EQ(all[i].sample.segments[k].image.pixels, one[i].sample.segments[k].image.pixels);
      }
    }
  }
}

TEST_F(Engine, WhatAWorkerThrowsIsThrown) {
  const auto small = testing::embedded_bagel();
  auto broken = prompts({"a red circle", "a star", "a square"});
  broken[1].images = {"not-there.png"};
  try {
    RolloutEngine(*small, tiny_rollout(), {.seed = 11, .threads = 2}, "").rollout(request(broken, 4));
    FAIL() << "nothing was thrown";
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find("not-there.png"), std::string::npos) << error.what();
  }
}

TEST_F(Engine, AStopLeavesNothingBehind) {
  const auto small = testing::embedded_bagel();
  for (const int64_t threads : {1, 2}) {
    std::atomic<int> signal{0};
    RolloutEngine engine(*small, tiny_rollout(), {.stop = StopToken(signal), .seed = 11, .threads = threads}, "");
    signal = 15;
    EXPECT_TRUE(engine.rollout(request(three, 4)).empty());
    signal = 0;
    const auto again = engine.rollout(request(three, 4));
    const auto all = RolloutEngine(*small, tiny_rollout(), {.seed = 11}, "").rollout(request(three, 4));
    ASSERT_EQ(again.size(), all.size());
    for (size_t i = 0; i < all.size(); ++i) expect_same(again[i], all[i], 0);
  }
}

TEST_F(Engine, TheTokenBudgetDoesNotChangeTheResult) {
  RolloutConfig config = tiny_rollout();
  const auto all = roll(config, request(three, 4));
  for (const int64_t budget : {1, 60, 150, 400}) {
    config.token_budget = budget;
    const auto some = roll(config, request(three, 4));
    for (size_t i = 0; i < all.size(); ++i) expect_same(some[i], all[i]);
  }
}

TEST_F(Engine, TheOrderAndCompanyOfGroupsDoNotChangeAGroup) {
  const auto all = roll(tiny_rollout(), request(three, 4));
  const std::vector<data::Prompt> swapped = {three[2], three[0]};
  const auto some = roll(tiny_rollout(), request(swapped, 4));
  for (size_t g = 0; g < 4; ++g) {
    expect_same(some[g], all[8 + g]);
    expect_same(some[4 + g], all[g]);
  }
}

TEST_F(Engine, LaterSamplesOfAGroupAreThoseOfALargerGroup) {
  const auto all = roll(tiny_rollout(), request(three, 4));
  RolloutRequest later = request(three, 2);
  later.first_sample = 2;
  const auto some = roll(tiny_rollout(), later);
  for (size_t p = 0; p < 3; ++p) {
    for (size_t g = 0; g < 2; ++g) expect_same(some[p * 2 + g], all[p * 4 + 2 + g]);
  }
}

TEST_F(Engine, SeedStepAndSampleEachMakeAnotherEpisode) {
  const auto base = roll(tiny_rollout(), request(three, 2));
  RolloutRequest other_step = request(three, 2);
  other_step.step = 2;
  const auto step = roll(tiny_rollout(), other_step), seed = roll(tiny_rollout(), request(three, 2), 12);
  const at::Tensor one = stream(base[0]).final_latent;
  for (const Trajectory* other : {&base[1], &step[0], &seed[0]}) {
    EXPECT_GT((stream(*other).final_latent - one).abs().max().item<double>(), 0.1);
  }
}

TEST_F(Engine, LogProbsAreThoseOfTheTrainingForward) {
  for (const flow::SdeKind kind : {flow::SdeKind::flow_sde, flow::SdeKind::cps, flow::SdeKind::dance}) {
    for (const double temperature : {1.0, 0.7}) {
      RolloutConfig config = tiny_rollout();
      config.sde.kind = kind;
      config.temperature = temperature;
      config.window.mode = flow::WindowMode::all;
      const auto all = roll(config, request(three, 4));
      grpo::GrpoConfig grpo_config;
      optim::OptimConfig optim_config;
      optim::AdamW optimizer(optim_config, {});
      optim::GradClip clip(optim_config);
      const grpo::LogProbNoise noise = grpo::measure_log_prob_noise(
          {.policy = *model, .optimizer = optimizer, .clip = clip, .config = grpo_config, .rollout = config}, all);
      EXPECT_LT(noise.text, kSame) << enum_name(kind);
      EXPECT_LT(noise.image, kSame) << enum_name(kind);
    }
  }
}

TEST_F(Engine, ATextThatTheLimitCutsHasNoEndTokenAmongItsActions) {
  RolloutConfig config = tiny_rollout();
  config.max_tokens = 2;
  int truncated = 0;
  for (const Trajectory& t : roll(config, request(three, 6))) {
    EXPECT_LE(text(t).ids.size(), 2U);
    EXPECT_EQ(t.sample.segments[0].finished, text(t).finished);
    if (text(t).finished) continue;
    ++truncated;
    EXPECT_EQ(text(t).ids.size(), 2U);
    EXPECT_NE(text(t).ids.back(), model->eos_id());
  }
  EXPECT_GT(truncated, 0);
}

TEST_F(Engine, WithoutStochasticStepsNothingIsTrainedAndTheWalkIsTheOde) {
  RolloutRequest ode = request(three, 1);
  ode.stochastic = false;
  const auto all = roll(tiny_rollout(), ode);
  const Trajectory& t = all[1];
  EXPECT_EQ(image(t).window.width(), 0);
  EXPECT_EQ(stream(t).log_probs.numel(), 0);
  EXPECT_EQ(stream(t).latents.sizes(), (at::IntArrayRef{1, 16, 64}));
  // The same walk by hand, from the same noise.
  policy::Context context;
  policy::Context* row = &context;
  std::vector<int64_t> ids = std::get<policy::TextBlock>(t.prefix.front()).ids;
  ids.push_back(model->bos_id());
  ids.insert(ids.end(), text(t).ids.begin(), text(t).ids.end());
  if (!text(t).finished) ids.push_back(model->eos_id());
  model->append_text(std::span<policy::Context* const>(&row, 1), std::span(&ids, 1));
  const policy::Context* reader = &context;
  const auto denoiser = model->denoise(std::span(&reader, 1), {4, 4});
  at::Tensor x = tensor::normal(
      {1, 16, 64}, {.seed = 11, .step = 1, .prompt = 1, .sample = 0, .segment = 1, .purpose = Purpose::initial_noise});
  for (int64_t i = 0; i < 4; ++i) {
    const double now = image(t).timesteps[i], next = image(t).timesteps[i + 1];
    x = flow::ode_step(x, denoiser->velocity(x, at::full({1}, now, at::kFloat)), now, next);
  }
  EXPECT_TRUE(close(stream(t).final_latent, x[0], 1e-4));  // four steps of float32
  model->release(context);
}

TEST_F(Engine, ForcedTextStandsWhereTheSampledOneWouldAndIsNoAction) {
  RolloutRequest forced = request(three, 2);
  forced.teacher_forced_text = {"a star", "a circle and a star", "two"};
  const auto all = roll(tiny_rollout(), forced);
  for (size_t i = 0; i < all.size(); ++i) {
    std::vector<int64_t> want = model->tokenizer().encode(forced.teacher_forced_text[i / 2]);
    want.push_back(model->eos_id());
    EXPECT_EQ(text(all[i]).ids, want);
    EXPECT_TRUE(text(all[i]).teacher_forced);
    EXPECT_TRUE(text(all[i]).finished);
  }
  // It is read by the image: another text, another image from the same noise.
  const auto sampled = roll(tiny_rollout(), request(three, 2));
  EXPECT_GT((stream(all[0]).final_latent - stream(sampled[0]).final_latent).abs().max().item<double>(), 1e-3);
}

TEST_F(Engine, GuidanceOfOneIsNoneAndMoreChangesTheImage) {
  const auto plain = roll(tiny_rollout(), request(three, 1));
  RolloutRequest guided = request(three, 1);
  guided.guidance.text_scale = 1.0;
  const auto one = roll(tiny_rollout(), guided);
  guided.guidance.text_scale = 4.0;
  const auto four = roll(tiny_rollout(), guided);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(close(stream(one[i]).final_latent, stream(plain[i]).final_latent, 0));
    EXPECT_EQ(text(four[i]).ids, text(plain[i]).ids);
    EXPECT_GT((stream(four[i]).final_latent - stream(plain[i]).final_latent).abs().max().item<double>(), 1e-3);
  }
}

TEST_F(Engine, GuidanceHoldsAContextWithoutTextAndOneWithoutImages) {
  const testing::TempFolder temp;
  Image given_image{.width = 64, .height = 96, .pixels = std::vector<uint8_t>(size_t{3} * 64 * 96, 90)};
  for (size_t i = 0; i < given_image.pixels.size(); i += 7) given_image.pixels[i] = static_cast<uint8_t>(i % 251);
  io::write_png(temp.path() / "image.png", given_image);
  auto one = prompts({"a red circle"});
  one[0].images = {(temp.path() / "image.png").string()};
  RolloutConfig config = tiny_rollout();
  config.episode = {kText, kImage, kText, kImage};
  RolloutRequest guided = request(one, 2);
  guided.stochastic = false;
  guided.guidance = {.text_scale = 3, .image_scale = 2, .renorm = flow::Renorm::text_channel, .interval_low = 0};
  const auto all = RolloutEngine(*model, config, {.seed = 11}, "change it").rollout(guided);
  const Trajectory& t = all[1];

  auto context_of = [&](const std::vector<policy::Block>& blocks) {
    policy::Context context;
    policy::Context* row = &context;
    for (const policy::Block& block : blocks) {
      if (const auto* read = std::get_if<policy::TextBlock>(&block)) {
        model->append_text(std::span<policy::Context* const>(&row, 1), std::span(&read->ids, 1));
      } else {
        model->append_images(std::span<policy::Context* const>(&row, 1), std::span(&block, 1));
      }
    }
    return context;
  };
  auto written = [&](const TextSegment& segment) {
    std::vector<int64_t> ids = {model->bos_id()};
    ids.insert(ids.end(), segment.ids.begin(), segment.ids.end());
    if (!segment.finished) ids.push_back(model->eos_id());
    return policy::TextBlock{ids};
  };
  const policy::Block system = policy::TextBlock{policy::block_ids(*model, "change it")};
  const policy::Block prompt = policy::TextBlock{policy::block_ids(*model, "a red circle")};
  const Image images[] = {given_image};
  const std::vector<policy::Block> given = model->read_images(images, true).front();
  ASSERT_EQ(t.prefix.size(), 2 + given.size());
  const std::vector<policy::Block>& drawn = image(t).context;
  std::vector<policy::Block> whole = {system}, textless = {system};
  for (auto* list : {&whole, &textless}) list->insert(list->end(), given.begin(), given.end());
  whole.insert(whole.end(), {prompt, written(text(t, 0))});
  for (auto* list : {&whole, &textless}) list->insert(list->end(), drawn.begin(), drawn.end());
  whole.push_back(written(text(t, 1)));
  policy::Context contexts[] = {context_of(whole), context_of(textless), context_of({system, prompt})};

  const policy::LatentGrid grid = stream(t, 1).grid;
  EXPECT_EQ(grid, std::get<policy::LatentBlock>(given.front()).grid);  // the image's own size, which is not a square
  EXPECT_NE(grid.height, grid.width);
  EXPECT_EQ(t.sample.segments[3].image.height, grid.height * model->config().pixels_per_token());
  at::Tensor x = tensor::normal(
      {1, grid.num_tokens(), 64},
      {.seed = 11, .step = 1, .prompt = 0, .sample = 1, .segment = 3, .purpose = Purpose::initial_noise});
  for (int64_t i = 0; i < 4; ++i) {
    const double now = image(t).timesteps[i], next = image(t).timesteps[i + 1];
    at::Tensor v[3];
    for (int k = 0; k < 3; ++k) {
      const policy::Context* reader = &contexts[k];
      v[k] = model->denoise(std::span(&reader, 1), grid)->velocity(x, at::full({1}, now, at::kFloat));
    }
    const at::Tensor velocity =
        flow::guide(guided.guidance, {.conditional = v[0], .without_text = v[1], .without_image = v[2]});
    x = flow::ode_step(x, velocity, now, next);
  }
  EXPECT_TRUE(close(stream(t, 1).final_latent, x[0], 1e-4));
  for (policy::Context& context : contexts) model->release(context);
}

TEST_F(Engine, PromptsOfSeveralSizesShareABatchAndDoNotChangeEachOther) {
  const testing::TempFolder temp;
  auto list = prompts({"make it red", "a star", "make it blue"});
  const std::pair<int, int> sizes[] = {{64, 96}, {0, 0}, {96, 64}};
  for (size_t i = 0; i < list.size(); ++i) {
    if (sizes[i].first == 0) continue;
    Image image{.width = sizes[i].first, .height = sizes[i].second, .pixels = {}};
    image.pixels.assign(static_cast<size_t>(3 * image.width * image.height), static_cast<uint8_t>(60 * (i + 1)));
    const auto file = temp.path() / (std::to_string(i) + ".png");
    io::write_png(file, image);
    list[i].images = {file.string()};
  }
  const auto together = roll(tiny_rollout(), request(list, 2));
  EXPECT_EQ(stream(together[0]).grid,
            (policy::LatentGrid{stream(together[4]).grid.width, stream(together[4]).grid.height}));
  EXPECT_EQ(stream(together[2]).grid, model->grid_for(64));
  for (size_t p = 0; p < list.size(); ++p) {
    RolloutRequest alone = request(std::span(list).subspan(p, 1), 2);
    const auto single = roll(tiny_rollout(), alone);
    for (size_t g = 0; g < 2; ++g) expect_same(single[g], together[2 * p + g], 1e-4);
  }
  // The update cuts its micro-batches where the size changes.
  const std::vector<int64_t> rows = {0, 1, 2, 3, 4, 5};
  EXPECT_EQ(grpo::plan_micro_batches(together, rows, 1 << 20).size(), 3U);
}

TEST_F(Engine, EpisodesMayBeTextOnlyImageOnlyOrLonger) {
  RolloutConfig config = tiny_rollout();
  config.episode = {kText};
  for (const Trajectory& t : roll(config, request(three, 2))) EXPECT_EQ(t.segments.size(), 1U);
  config.episode = {kImage};
  for (const Trajectory& t : roll(config, request(three, 2))) EXPECT_EQ(image(t, 0).window.width(), 2);
  config.episode = {kText, kImage, kText, kImage};
  const auto long_ones = roll(config, request(three, 2));
  config.token_budget = 100;
  const auto in_small_batches = roll(config, request(three, 2));
  for (size_t i = 0; i < long_ones.size(); ++i) {
    EXPECT_EQ(long_ones[i].segments.size(), 4U);
    EXPECT_EQ(long_ones[i].sample.segments.size(), 4U);
    // A drawn image is rounded to bytes before it is read: what is 1e-7 apart may become 1/255 of one pixel.
    expect_same(in_small_batches[i], long_ones[i], 5e-3);
  }
}

TEST_F(Engine, ASystemPromptIsABlockBeforeThePrompt) {
  const RolloutEngine plain(*model, tiny_rollout(), {}, ""), told(*model, tiny_rollout(), {}, "draw it");
  const auto prompt = plain.prefix(three[0]), both = told.prefix(three[0]);
  auto ids = [](const policy::Block& block) { return std::get<policy::TextBlock>(block).ids; };
  ASSERT_EQ(prompt.size(), 1U);
  EXPECT_EQ(ids(prompt[0]).front(), model->bos_id());
  EXPECT_EQ(ids(prompt[0]).back(), model->eos_id());
  ASSERT_EQ(both.size(), 2U);
  EXPECT_EQ(ids(both[0]), policy::block_ids(*model, "draw it"));
  EXPECT_EQ(ids(both[1]), ids(prompt[0]));
}

TEST_F(Engine, APromptThatMayOutgrowThePositionsIsRefused) {
  RolloutConfig config = tiny_rollout();
  const int64_t prompt_tokens = static_cast<int64_t>(policy::block_ids(*model, three[0].text).size());
  config.max_tokens = model->max_positions() - prompt_tokens - 4;  // bos and eos of the text, the image's two blocks
  RolloutEngine(*model, config, {}, "").check_length(three[0]);
  ++config.max_tokens;
  try {
    RolloutEngine(*model, config, {}, "").rollout(request(three, 1));
    ADD_FAILURE() << "not refused";
  } catch (const BadInput& error) {
    EXPECT_TRUE(std::string(error.what()).starts_with("prompt '0': ")) << error.what();
    EXPECT_NE(std::string(error.what()).find("max_position_embeddings"), std::string::npos);
  }
}

// A tag that is a special token is text like any other to a judge; the end token is not.
TEST_F(Engine, SpecialTokensThatTheModelWroteStandInTheText) {
  const auto list = prompts({"a star"});
  RolloutRequest forced = request(list, 1);
  forced.teacher_forced_text = {"<|vision_start|>a plan<|vision_end|> and more"};
  RolloutConfig config = tiny_rollout();
  config.episode = {kText};
  const auto rows = roll(config, forced);
  EXPECT_EQ(rows[0].sample.segments[0].text, forced.teacher_forced_text[0]);
  EXPECT_EQ(text(rows[0]).ids.back(), model->eos_id());
}

TEST_F(Engine, AtTemperatureZeroEverySampleIsTheLikeliest) {
  const auto list = prompts({"a star", "two"});
  RolloutConfig config = tiny_rollout();
  config.episode = {kText};
  config.temperature = 0;
  const auto rows = roll(config, request(list, 3));
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(text(rows[i]).ids, text(rows[i / 3 * 3]).ids);
  policy::Context context = model->fork({});
  policy::Context* row = &context;
  std::vector<int64_t> ids = policy::block_ids(*model, "a star");
  ids.push_back(model->bos_id());
  const at::Tensor logits = model->append_text(std::span<policy::Context* const>(&row, 1), std::span(&ids, 1));
  EXPECT_EQ(text(rows[0]).ids.front(), logits[0].argmax().item<int64_t>());
  model->release(context);
}

}  // namespace
}  // namespace unigrpo::rollout

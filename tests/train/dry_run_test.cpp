#include "train/dry_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "base/error.h"
#include "policy/bagel/bagel.h"
#include "support/refusal.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "support/tiny_bagel.h"
#include "train/rank_share.h"

namespace unigrpo::train {
namespace {

using data::SegmentKind;

namespace fs = std::filesystem;

recipe::Recipe recipe_for(const std::string& model) {
  recipe::Recipe recipe;
  recipe.policy.model = model;
  recipe.data.prompts = "not/here.jsonl";
  return recipe;
}

/// The line that starts with `what`, blanks at its ends gone.
std::string line_of(const std::string& text, const std::string& what) {
  size_t at = text.find("  " + what);
  if (at == std::string::npos) return "no line '" + what + "'";
  const size_t first = text.find_first_not_of(' ', at + 2 + what.size());
  return text.substr(first, text.find('\n', first) - first);
}

TEST(Shapes, AreThoseOfALoadedModel) {
  const auto model = testing::tiny_bagel();
  size_t seen = 0;
  const NamedTensors shapes = policy::Bagel::shapes(model->config());
  for (const NamedTensor& shape : shapes) {
    EXPECT_TRUE(shape.tensor.is_meta()) << shape.name;
    if (shape.name.starts_with("autoencoder.")) continue;
    EXPECT_EQ(shape.tensor.sizes(), testing::parameter(*model, shape.name).sizes()) << shape.name;
    ++seen;
  }
  EXPECT_EQ(seen, model->parameters().size());
}

TEST(DryRun, CountsWhatTrainingWouldTrain) {
  recipe::Recipe recipe = recipe_for(UNIGRPO_TEST_DATA "/bagel_tiny");
  const std::string text = dry_run(recipe, {});
  EXPECT_NE(text.find("the weights' headers fit the config"), std::string::npos) << text;
  EXPECT_NE(text.find("not/here.jsonl is not here: 64 tokens a prompt assumed"), std::string::npos) << text;
  EXPECT_EQ(line_of(text, "prompts x group = samples"), "12 x 12 = 144");
  EXPECT_EQ(line_of(text, "and for the drift monitor"), "12 x 2 every 2 steps (8.3% of the samples)");

  recipe.policy.train = policy::TrainMode::lora;
  recipe.policy.lora.rank = 4;
  int64_t adapters = 0;
  for (const NamedTensor& p : testing::tiny_bagel(policy::TrainMode::lora)->parameters()) {
    if (p.tensor.requires_grad()) adapters += p.tensor.numel();  // rank 4 as well
  }
  const std::string lora = dry_run(recipe, {});
  EXPECT_NE(line_of(lora, "adapters").find(fmt::format("{:.2f} k", static_cast<double>(adapters) / 1e3)),
            std::string::npos)
      << lora;
  recipe.policy.lora.targets = {"nothing*"};
  EXPECT_THROW(dry_run(recipe, {}), BadInput);
}

TEST(DryRun, OfThePublishedSizesFitsWithLoraAndNotWithAllWeights) {
  recipe::Recipe recipe = recipe_for(UNIGRPO_TEST_DATA "/bagel_7b");
  recipe.policy.dtype = policy::DtypeChoice::bfloat16;
  recipe.policy.recompute = true;
  recipe.rollout.image_size = 512;
  const std::string full = dry_run(recipe, {.num_gpus = 8, .gpu_gib = 80});
  // 28 layers of 2 (q, o: 3584^2; k, v: 512 x 3584; gate, up, down: 3584 x 18944) and their biases and norms.
  EXPECT_EQ(line_of(full, "language model, generation").substr(0, 6), "6.53 G");
  EXPECT_NE(full.find("no weights in the folder"), std::string::npos);
  EXPECT_NE(full.find("a rank (shard = \"none\"): does NOT fit"), std::string::npos) << full;
  EXPECT_NE(full.find("parallel.shard = \"weights\": fits"), std::string::npos) << full;
  recipe.parallel.shard = parallel::Shard::weights;
  const std::string shared = dry_run(recipe, {.num_gpus = 8, .gpu_gib = 80});
  EXPECT_NE(shared.find("a rank (shard = \"weights\"): fits"), std::string::npos) << shared;
  recipe.policy.train = policy::TrainMode::lora;
  EXPECT_NE(dry_run(recipe, {.num_gpus = 1, .gpu_gib = 80}).find("one GPU: fits"), std::string::npos);
}

TEST(DryRun, FollowsWhatTheRecipeSaysOfRanks) {
  recipe::Recipe recipe = recipe_for(UNIGRPO_TEST_DATA "/bagel_7b");
  recipe.parallel.tp = 3;
  const std::string said = testing::message_of<BadInput>([&] { dry_run(recipe, {.num_gpus = 8}); });
  EXPECT_EQ(said, "parallel: tp = 3 x sp = 1 does not divide 8 ranks; their product may be 1, 2, 4, 8");
  recipe.parallel.tp = 1;
  recipe.parallel.shard = parallel::Shard::weights;
  recipe.parallel.shard_ranks = 2;
  const std::string hybrid = dry_run(recipe, {.num_ranks = 4, .local_ranks = 2, .memory_gib = 64});
  EXPECT_NE(hybrid.find("a rank (shard = \"weights\" over 2): does NOT fit, short of "), std::string::npos) << hybrid;
  EXPECT_NE(hybrid.find(" GiB of 32\n"), std::string::npos) << hybrid;  // two of them on a machine
  EXPECT_NE(hybrid.find("one process      a rank of 4"), std::string::npos) << hybrid;
}

/// What ranks send, by what a ring's shares are: (n - 1) / n of a sum or a gathered whole for each of them.
TEST(RankShare, SendsWhatEachLevelNeeds) {
  recipe::Recipe recipe = recipe_for(UNIGRPO_TEST_DATA "/bagel_tiny");
  recipe.grpo.image.penalty = flow::Penalty::none;
  recipe.grpo.prompts_per_step = 4;
  recipe.grpo.group_size = 4;
  recipe.rollout.max_tokens = 4;
  const policy::ModelSizes model = policy::read_sizes(recipe.policy.model);
  const StepFacts facts = step_facts(recipe, model);
  double elements = 0, root = 0, last = 0;
  for (const NamedTensor& p : testing::tiny_bagel()->parameters()) {
    const auto n = static_cast<double>(p.tensor.numel());
    elements += n;
    if (p.name.find(".layers.") == std::string::npos || p.name.starts_with("vit_model.")) root += n;
    if (p.name.starts_with("language_model.model.layers.1.")) last += n;
  }
  const double trained = facts.count.total_trained();
  const auto sent = [&](parallel::Shard shard, int64_t ranks, int64_t shard_ranks) {
    recipe.parallel.shard = shard;
    recipe.parallel.shard_ranks = shard_ranks;
    double sum = 0;
    for (const Amount& amount : sent_by_rank(facts, spread_on_ranks(recipe, ranks, 1))) sum += amount.bytes;
    return sum;
  };
  using parallel::Shard;
  EXPECT_DOUBLE_EQ(sent(Shard::none, 4, 0), 2 * 3.0 / 4 * 4 * trained);
  EXPECT_DOUBLE_EQ(sent(Shard::optimizer, 4, 0), 2 * 3.0 / 4 * 4 * trained);
  EXPECT_DOUBLE_EQ(sent(Shard::gradients, 2, 0), 2 * 1.0 / 2 * 4 * trained);
  const double gathered = elements + 2 * elements - root - last;  // to sample; to learn, there and back
  EXPECT_DOUBLE_EQ(sent(Shard::weights, 2, 0), 1.0 / 2 * 4 * (trained + gathered));
  EXPECT_DOUBLE_EQ(sent(Shard::weights, 4, 2), 1.0 / 2 * 4 * (trained + gathered) + 2 * 1.0 / 2 / 2 * 4 * trained);
  recipe.parallel.reduce = parallel::Reduce::last;
  EXPECT_FALSE(spread_on_ranks(recipe, 4, 1).reduces_each());  // with weights as with gradients
}

TEST(RankShare, OfAStageIsThatOfTheLargestOne) {
  const testing::TempFolder folder;
  recipe::Recipe recipe = recipe_for(UNIGRPO_TEST_DATA "/bagel_tiny");
  recipe.parallel.plan = folder.write("plan.json", R"({"layers": [{}, {"stage": 1}, {"stage": 1}]})");
  const policy::ModelSizes sizes = policy::read_sizes(recipe.policy.model);
  const StepFacts facts = step_facts(recipe, sizes);
  const RankSpread spread = spread_on_ranks(recipe, 4, 1);
  EXPECT_EQ(describe(spread), "shard = \"none\", 2 stages");
  EXPECT_EQ(spread.stage_ranks(), 2);
  EXPECT_EQ(spread.pipelines(), 2);
  const double whole = memory_of_rank(facts, {}).held.front().bytes,
               own = memory_of_rank(facts, spread).held.front().bytes;
  EXPECT_GT(own, whole / 2);  // two of three layers, or the vision tower
  EXPECT_LT(own, whole);
  const auto sent = sent_by_rank(facts, spread);
  const auto states = std::ranges::find(sent, "hidden states between stages", &Amount::what);
  ASSERT_NE(states, sent.end());
  // Of each token forward, for the reference too, and back.
  EXPECT_EQ(states->bytes, facts.tokens.trained() / 2 * 64 * facts.bytes() * 3);
}

TEST(RankShare, OfLayersWithPlansOfTheirOwnIsTheSumOfTheirs) {
  const testing::TempFolder folder;
  recipe::Recipe recipe = recipe_for(UNIGRPO_TEST_DATA "/bagel_tiny");
  const policy::ModelSizes sizes = policy::read_sizes(recipe.policy.model);
  const StepFacts facts = step_facts(recipe, sizes);
  const auto planned = [&](const std::string& layers) {
    recipe.parallel.plan = folder.write("plan.json", R"({"layers": [)" + layers + "]}");
    return spread_on_ranks(recipe, 4, 1);
  };
  const auto weights = [&](const RankSpread& spread) { return memory_of_rank(facts, spread).held.front().bytes; };
  recipe.parallel.shard = parallel::Shard::weights;
  const RankSpread all = spread_on_ranks(recipe, 4, 1), alike = planned("{}, {}, {}");
  EXPECT_EQ(describe(alike), describe(all));
  EXPECT_EQ(weights(alike), weights(all));
  EXPECT_EQ(memory_of_rank(facts, alike).total(), memory_of_rank(facts, all).total());
  for (size_t i = 0; i < sent_by_rank(facts, all).size(); ++i) {
    EXPECT_EQ(sent_by_rank(facts, alike)[i].bytes, sent_by_rank(facts, all)[i].bytes);
  }
  // Each layer that is whole adds three quarters of itself.
  const RankSpread one = planned(R"({"shard": "none"}, {}, {})"),
                   two = planned(R"({"shard": "none"}, {"shard": "none"}, {})");
  EXPECT_EQ(describe(one), "shard = \"weights\", layers as planned");
  EXPECT_GT(weights(one), weights(all));
  EXPECT_NEAR(weights(two) - weights(one), weights(one) - weights(all), 1e-6 * weights(all));
  EXPECT_EQ(testing::refusal([&] { memory_of_rank(facts, planned("{}, {}")); }),
            recipe.parallel.plan + ": 2 layers; " + recipe.policy.model + " has 3 (num_hidden_layers)");
}

TEST(DryRun, WithoutGpusThisMachinesMemoryIsCompared) {
  recipe::Recipe recipe = recipe_for(UNIGRPO_TEST_DATA "/bagel_tiny");
  const std::string fits = dry_run(recipe, {.memory_gib = 2});
  EXPECT_NE(fits.find("this machine's memory: fits, leaving"), std::string::npos) << fits;
  EXPECT_NE(fits.find("GiB of 2\n"), std::string::npos) << fits;
  for (const char* word : {"GPU", "a rank", "reserve", "a step on this machine"}) {
    EXPECT_EQ(fits.find(word), std::string::npos) << word;
  }
  recipe.policy.model = UNIGRPO_TEST_DATA "/bagel_7b";
  const std::string large = dry_run(recipe, {.memory_gib = 16, .measure = true});
  EXPECT_NE(large.find("this machine's memory: does NOT fit, short of"), std::string::npos) << large;
  EXPECT_NE(large.find("a step on this machine: not measured, no weights in the folder"), std::string::npos) << large;
}

TEST(DryRun, AShortTrialTellsTheTimeOfAStep) {
  const testing::TempFolder temp;
  recipe::Recipe recipe = recipe_for(UNIGRPO_TEST_DATA "/qwen2_tiny");
  recipe.rollout.episode = {SegmentKind::text};
  recipe.rollout.max_tokens = 4;
  EXPECT_NE(dry_run(recipe, {.measure = true}).find("not measured, the prompts are not here"), std::string::npos);
  recipe.data.prompts = temp.write("p.jsonl", "{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}\n").string();
  recipe.grpo.prompts_per_step = 2;
  const std::string text = dry_run(recipe, {.measure = true});
  EXPECT_NE(text.find("a step on this machine: about"), std::string::npos) << text;
  EXPECT_NE(text.find("of its 2 prompts on"), std::string::npos) << text;
}

TEST(DryRun, OfATextModelHasNoImages) {
  recipe::Recipe recipe = recipe_for(UNIGRPO_TEST_DATA "/qwen2_tiny_tied");
  recipe.rollout.episode = {SegmentKind::text};
  const std::string text = dry_run(recipe, {});
  EXPECT_NE(text.find("the weights' headers fit the config"), std::string::npos) << text;
  EXPECT_EQ(line_of(text, "language model, generation").substr(0, 2), "0 ");
  EXPECT_EQ(line_of(text, "image tokens, once a denoising step"), "0 ");
  recipe.rollout.episode = {SegmentKind::text, SegmentKind::image};
  const std::string said = testing::message_of<BadInput>([&] { dry_run(recipe, {}); });
  EXPECT_NE(said.find("text only"), std::string::npos) << said;
}

TEST(DryRun, HeadersThatDoNotFitTheConfigAreNamed) {
  const testing::TempFolder temp;
  const fs::path folder = temp.path() / "model";
  fs::copy(UNIGRPO_TEST_DATA "/bagel_tiny", folder);
  const recipe::Recipe recipe = recipe_for(folder.string());
  const std::string config = (folder / "config.json").string();
  fs::copy_file(UNIGRPO_TEST_DATA "/bagel_7b/vit_config.json", folder / "vit_config.json",
                fs::copy_options::overwrite_existing);
  const std::string said = testing::message_of<BadInput>([&] { dry_run(recipe, {}); });
  EXPECT_NE(said.find("ema.safetensors: tensor 'connector.fc1.weight' has a shape"), std::string::npos) << said;
}

}  // namespace
}  // namespace unigrpo::train

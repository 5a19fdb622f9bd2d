#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "base/rng.h"
#include "recipe/checks.h"
#include "recipe/schema.h"
#include "recipe/support.h"

namespace unigrpo::recipe {
namespace {

TEST(Explain, IsWhatTheDocumentSays) {
  std::ifstream file(UNIGRPO_SOURCE_DIR "/docs/RECIPE.md");
  const std::string document{std::istreambuf_iterator<char>(file), {}};
  EXPECT_TRUE(document == explain()) << "write it again: build/bin/unigrpo recipe --explain > docs/RECIPE.md";
}

TEST(Explain, HasEveryKeyWithItsDefaultRangeAndMeaning) {
  const std::string text = explain();
  for (const Section& section : schema()) {
    for (const Field& field : section.fields)
      EXPECT_NE(text.find("| " + field.key + " "), std::string::npos) << field.key;
  }
  EXPECT_NE(text.find("| grpo.group_size         | integer | 12      | from 2 to 65536 | G: samples a prompt"),
            std::string::npos);
  EXPECT_NE(text.find("| required by train "), std::string::npos);
  EXPECT_NE(text.find("flow_sde, cps, dance"), std::string::npos);
}

TEST(ToToml, WritesTheDefaults) {
  const std::string text = to_toml(Recipe{});
  EXPECT_TRUE(text.starts_with("[run]\nname = \"run\"\ndir = \"\"\nseed = 0\n")) << text;
  EXPECT_NE(text.find("\n[optim]\nlr = 0.0001\n"), std::string::npos) << text;
}

double draw_number(RandomStream& draw, const Limits& limits) {
  if (limits.special && draw.below(4) == 0) return *limits.special;
  const double low = std::max(limits.min, -1e3);
  const double high = std::min(limits.max, low + 1e3);
  return low + (high - low) * (0.001 + 0.998 * draw.uniform());
}

std::string draw_text(RandomStream& draw, const Limits& limits) {
  static const std::vector<std::string> pieces = {"a", "Z", "\"", "\\", "\xC3\xA9", "'",
                                                  "#", "=", "[",  " ",  "0",        "\xE2\x82\xAC"};
  std::string text;
  for (int attempt = 0; attempt < 1000; ++attempt) {
    text.clear();
    const size_t length = draw.below(8);
    for (size_t i = 0; i < length; ++i) text += pieces[draw.below(pieces.size())];
    if (limits.rule == nullptr || limits.rule->accepts(text)) return text;
  }
  for (const char* fixed : {"text", "edge_density", "cuda:1", "video"}) {
    if (limits.rule->accepts(fixed)) return fixed;
  }
  throw std::logic_error("no value for " + std::string(limits.rule->one));
}

struct Randomize {
  RandomStream& draw;
  const Limits& limits;
  void operator()(bool* out) const { *out = draw.below(2) == 1; }
  void operator()(int64_t* out) const { *out = static_cast<int64_t>(std::floor(draw_number(draw, limits))); }
  void operator()(double* out) const { *out = draw_number(draw, limits); }
  void operator()(std::string* out) const { *out = draw_text(draw, limits); }
  void operator()(std::vector<std::string>* out) const {
    out->resize(1 + draw.below(3));
    for (std::string& text : *out) text = draw_text(draw, limits);
  }
  void operator()(const EnumRef& out) const {
    const auto names = out.choices();
    out.set(out.value, names[draw.below(names.size())]);
  }
  void operator()(const EnumListRef& out) const {
    std::vector<std::string> names;
    (*this)(&names);
    out.set(out.values, names);
  }
  void operator()(const ShareRef& out) const {
    std::vector<Share::Point>& points = out.share->points;
    points.resize(1 + draw.below(3));
    int64_t step = 0;
    for (Share::Point& point : points) {
      point = {.step = step, .share = 0.5 + draw_number(draw, limits)};
      step += 1 + static_cast<int64_t>(draw.below(100));
    }
  }
  void operator()(const TableRef& out) const {
    static const std::vector<std::string> values = {"{}", R"({"limit":3})",
                                                    R"({"a b":{"c":[1,2.0,true,"x\"\n"],"d":{}},"z":-1e-300})"};
    *out.json = values[draw.below(values.size())];
  }
};

Recipe random_recipe(uint64_t seed) {
  RandomStream draw({.seed = seed});
  Recipe recipe;
  for (const Section& section : schema()) {
    size_t count = 1;
    if (section.is_list()) section.resize(recipe, count = draw.below(4));
    for (size_t i = 0; i < count; ++i) {
      for (const Field& field : section.fields) {
        std::visit(Randomize{draw, field.limits}, field.at(recipe, i));
      }
    }
  }
  // What the checks between keys ask for.
  recipe.rollout.episode = {data::SegmentKind::text, data::SegmentKind::image};
  recipe.rollout.num_steps = 2000;
  recipe.rollout.window.last = -1;
  recipe.rollout.window.first = std::min<int64_t>(recipe.rollout.window.first, 900);
  recipe.rollout.window.width = std::min<int64_t>(recipe.rollout.window.width, 900);
  if (recipe.rollout.sde.kind == flow::SdeKind::cps) recipe.rollout.sde.kind = flow::SdeKind::dance;
  recipe.grpo.num_minibatches = 1;
  if (recipe.grpo.text.kl_estimator == grpo::KlEstimator::k1) recipe.grpo.text.kl_beta = 0;
  if (recipe.policy.train == policy::TrainMode::lora) recipe.policy.freeze.clear();
  recipe.eval.keep_best = false;
  if (recipe.policy.device == "cpu") recipe.rollout.graphs = false;
  if (recipe.parallel.flexible_sp || recipe.parallel.reward_ranks > 0) {
    recipe.parallel.exact_reduction = false;
    recipe.parallel.tp = recipe.parallel.sp = 1;
    recipe.parallel.plan = "";
  }
  if (!recipe.parallel.flexible_sp) recipe.parallel.profile = "";
  if (recipe.parallel.exact_reduction) {
    recipe.parallel.reduce = parallel::Reduce::each;
    recipe.grpo.advantage.zero_std = grpo::ZeroStd::keep;
  }
  if (!recipe.tasks.empty()) recipe.data.prompts = "";
  for (size_t i = 0; i < recipe.tasks.size(); ++i) {
    TaskConfig& task = recipe.tasks[i];
    task.name = "task" + std::to_string(i);
    task.episode = draw.below(2) == 1 ? recipe.rollout.episode : std::vector<data::SegmentKind>();
    task.num_steps = task.num_steps > 0 ? 2000 : 0;
    task.rewards.clear();
    if (recipe.reward.terms.size() > 1 && draw.below(2) == 1) task.rewards = {"t0", "t1"};  // t0 is the others' gate
  }
  const auto settle = [&](reward::TermConfig& term, size_t i) {
    term.name = "t" + std::to_string(i);
    term.gate = i > 0 ? "t0" : "";
    if (reward::judges_clips(term.kind)) term.kind = reward::RewardKind::geneval;
    const bool edit = term.kind == reward::RewardKind::edit;
    if (edit && term.objects.metric == reward::GenevalMetric::official)
      term.objects.metric = reward::GenevalMetric::soft;
    auto& rules = term.text_rules;
    rules.max_tokens = std::max({rules.max_tokens, rules.min_tokens, rules.overlong_cache});
    term.http.url = "https://judge/" + std::to_string(seed);
    term.judge.max_number = std::max(term.judge.max_number, term.judge.min_number);
    term.judge.model += "m";
    term.judge.message_template += "\n{prompt}";
    term.judge.score_pointer = draw.below(2) == 1 ? "/score" : "";
    term.judge.score_regex = term.judge.score_pointer.empty() ? "([0-9]+)" : "";
    term.plugin.path = "plugin.so";
    term.network.model = "models/clip";
  };
  for (size_t i = 0; i < recipe.reward.terms.size(); ++i) settle(recipe.reward.terms[i], i);
  for (size_t i = 0; i < recipe.eval.rewards.size(); ++i) settle(recipe.eval.rewards[i], i);
  return recipe;
}

TEST(ToToml, WritesTheKeysOfARewardsKindAlone) {
  Recipe recipe;
  recipe.reward.terms = {{.kind = reward::RewardKind::jpeg}};
  const std::string text = to_toml(recipe);
  EXPECT_NE(text.find("jpeg_prefer"), std::string::npos) << text;
  for (const char* other : {"metric", "timeout_s", "http.", "pattern", "settings", "model = \"\"\nweight"}) {
    EXPECT_EQ(text.substr(text.find("[[rewards]]"), 300).find(other), std::string::npos) << other << text;
  }
}

TEST(ToToml, ReadsBackAsTheSameRecipe) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const Recipe recipe = random_recipe(seed);
    const std::string text = to_toml(recipe);
    const Recipe again = accepted(text);
    EXPECT_EQ(differing_keys(recipe, again), std::vector<std::string>{}) << "seed " << seed << "\n" << text;
    EXPECT_EQ(to_toml(again), text) << "seed " << seed;
    // Not through text: a double must come back to its last bit.
    EXPECT_EQ(recipe.optim.lr, again.optim.lr);
    EXPECT_EQ(recipe.grpo.advantage.eps, again.grpo.advantage.eps);
  }
}

TEST(DifferingKeys, AreNamedInSchemaOrder) {
  Recipe a;
  a.reward.terms.resize(2);
  Recipe b = a;
  EXPECT_TRUE(differing_keys(a, b).empty());
  b.optim.lr = 2e-4;
  b.run.num_steps = 7;
  b.reward.terms[1].weight = 0.5;
  b.reward.terms[0].judge.model = "m";  // of another kind than the term's
  b.reward.terms[0].objects.metric = reward::GenevalMetric::strict;
  b.policy.freeze.clear();
  EXPECT_EQ(differing_keys(a, b), (std::vector<std::string>{"run.num_steps", "policy.freeze", "rewards.0.metric",
                                                            "rewards.1.weight", "optim.lr"}));
  b = a;
  b.reward.terms.resize(3);
  EXPECT_EQ(differing_keys(a, b), std::vector<std::string>{"rewards"});
}

TEST(Parse, SurvivesMutatedRecipes) {
  Recipe base = random_recipe(1);
  base.reward.terms.resize(2);
  base.reward.terms[0].name = "first";
  base.reward.terms[1].name = "second";
  base.reward.terms[1].gate = "first";
  for (TaskConfig& task : base.tasks) task.rewards.clear();
  const std::string good = "# a comment\n" + to_toml(base) + "\n[[rewards]]\nname = '''x'''\n";
  ASSERT_EQ(refusal(good), "accepted");
  // clang-format off
  static const std::vector<std::string> tokens = {
      "[", "]", "[[", "]]", "{", "}", "=", ".", ",", "\"", "'", "\"\"\"", "'''", "\n", "#", "\\", "\\u",
      "\\\n", "0x", "1e", "nan", "inf", "true", "-", "_", "1979-05-27T00:00:00Z", "a.b", " ", "\r",
      std::string(1, '\0'), "\xFF", "\xE2", "\xC3\xA9", "\xE3\x80\x81"};
  // clang-format on
  size_t num_accepted = 0;
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    RandomStream draw({.seed = seed, .step = 1});
    std::string text = good;
    const size_t edits = 1 + draw.below(4);
    for (size_t i = 0; i < edits && !text.empty(); ++i) {
      const size_t at = draw.below(text.size());
      const size_t length = std::min<size_t>(text.size() - at, draw.below(draw.below(8) == 0 ? 400 : 4));
      switch (draw.below(5)) {
        case 0:
          text[at] = static_cast<char>(draw.below(256));
          break;
        case 1:
          text.insert(at, tokens[draw.below(tokens.size())]);
          break;
        case 2:
          text.erase(at, length);
          break;
        case 3:
          text.insert(draw.below(text.size()), text.substr(at, length));
          break;
        default:
          text.resize(draw.below(8) == 0 ? at : text.size());
          break;
      }
    }
    const std::string message = refusal(text);  // anything thrown but BadInput ends the test
    if (message == "accepted") {
      ++num_accepted;
      continue;
    }
    EXPECT_TRUE(message.starts_with("FILE:")) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), 1000u) << message;
  }
  EXPECT_GT(num_accepted, 100u);
  EXPECT_LT(num_accepted, 3900u);
}

}  // namespace
}  // namespace unigrpo::recipe

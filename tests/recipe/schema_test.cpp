#include "recipe/schema.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <set>
#include <string>

#include "recipe/support.h"

namespace unigrpo::recipe {
namespace {

struct Anything {
  template <typename T>
  operator T() const;  // never called: only asks whether an initialiser would fit
};

/// Members of an aggregate: the largest number of initialisers that it takes.
template <typename T, typename... Initialisers>
constexpr size_t num_members() {
  if constexpr (requires { T{Initialisers{}..., Anything{}}; }) {
    return num_members<T, Initialisers..., Anything>();
  } else {
    return sizeof...(Initialisers);
  }
}

/// Rows of a section (a sub-table's as one) and sections right below it: each is one member of the config.
size_t num_bound(const std::string& key) {
  std::set<std::string> names;
  for (const Field& field : find_section(key)->fields) names.insert(field.name.substr(0, field.name.find('.')));
  size_t count = names.size();
  for (const Section& section : schema()) {
    const size_t dot = section.key.rfind('.');
    if (dot != std::string::npos && section.key.substr(0, dot) == key) ++count;
  }
  return count;
}

TEST(Schema, BindsEveryMemberOfEveryConfig) {
  EXPECT_EQ(num_bound("run"), num_members<RunConfig>());
  EXPECT_EQ(num_bound("policy") + 1, num_members<policy::PolicyConfig>());  // its text is [data]'s
  EXPECT_EQ(num_bound("policy.lora"), num_members<policy::LoraConfig>());
  EXPECT_EQ(num_bound("data"), num_members<data::DataConfig>());
  EXPECT_EQ(num_bound("rollout") + 1, num_members<rollout::RolloutConfig>());  // truncation is of `sample` and `eval`
  EXPECT_EQ(num_bound("rollout.sde"), num_members<flow::SdeConfig>());
  EXPECT_EQ(num_bound("rollout.window"), num_members<flow::WindowConfig>());
  EXPECT_EQ(num_bound("grpo"), num_members<grpo::GrpoConfig>());
  EXPECT_EQ(num_bound("grpo.advantage"), num_members<grpo::AdvantageConfig>());
  EXPECT_EQ(num_bound("grpo.text"), num_members<grpo::TextLossConfig>());
  EXPECT_EQ(num_bound("rollout.clip"), num_members<rollout::ClipConfig>());
  EXPECT_EQ(num_bound("grpo.image"), num_members<grpo::ImageLossConfig>());
  for (const char* stream : {"grpo.video", "grpo.audio"}) {  // an encoded text has no context_gradient
    EXPECT_EQ(num_bound(stream) + 1, num_members<grpo::ImageLossConfig>()) << stream;
  }
  EXPECT_EQ(num_bound("grpo.av"), num_members<grpo::AvConfig>());
  EXPECT_EQ(num_bound("reward") + 1, num_members<reward::RewardConfig>());
  // Its terms are a section of their own, [[rewards]].
  constexpr std::array kinds = {num_members<reward::ObjectsConfig>(),  num_members<reward::TextRulesConfig>(),
                                num_members<reward::JpegConfig>(),     num_members<reward::NetworkConfig>(),
                                num_members<reward::EndpointConfig>(), num_members<reward::JudgeConfig>(),
                                num_members<reward::PluginConfig>()};
  EXPECT_EQ(find_section("rewards")->fields.size(), num_members<reward::TermConfig>() - kinds.size() +
                                                        std::accumulate(kinds.begin(), kinds.end(), size_t{0}) -
                                                        1);  // timeout_s is the endpoint's or the plugin's
  EXPECT_EQ(num_bound("optim"), num_members<optim::OptimConfig>());
  EXPECT_EQ(num_bound("optim.groups"), num_members<optim::GroupConfig>());
  EXPECT_EQ(num_bound("optim.ema"), num_members<optim::EmaConfig>());
  EXPECT_EQ(num_bound("checkpoint"), num_members<checkpoint::CheckpointConfig>());
  EXPECT_EQ(num_bound("parallel"), num_members<parallel::ParallelConfig>());
  EXPECT_EQ(num_bound("monitor"), num_members<monitor::MonitorConfig>());
  EXPECT_EQ(num_bound("monitor.drift"), num_members<monitor::DriftConfig>());
  EXPECT_EQ(num_bound("eval"), num_members<EvalConfig>());
  EXPECT_EQ(num_bound("sft"), num_members<SftConfig>());
  EXPECT_EQ(num_bound("tasks"), num_members<TaskConfig>());
  EXPECT_EQ(schema().size(), 28u);
  const auto tops = std::ranges::count_if(schema(), [](const Section& s) { return s.key.find('.') == s.key.npos; });
  EXPECT_EQ(static_cast<size_t>(tops),
            num_members<Recipe>());  // [reward] and [[rewards]] are one member, `given` is no section
}

TEST(Schema, BindsEachKeyToAMemberOfItsOwn) {
  Recipe recipe;
  recipe.reward.terms.resize(1);
  recipe.eval.rewards.resize(1);
  recipe.optim.groups.resize(1);
  recipe.tasks.resize(1);
  std::set<std::string> keys;
  std::set<const void*> places;
  size_t count = 0;
  for (const Section& section : schema()) {
    for (const Field& field : section.fields) {
      ++count;
      keys.insert(field.key);
      places.insert(std::visit(
          [](const auto& ref) -> const void* {
            if constexpr (std::is_same_v<std::decay_t<decltype(ref)>, EnumRef>)
              return ref.value;
            else if constexpr (std::is_same_v<std::decay_t<decltype(ref)>, EnumListRef>)
              return ref.values;
            else if constexpr (std::is_same_v<std::decay_t<decltype(ref)>, TableRef>)
              return ref.json;
            else if constexpr (std::is_same_v<std::decay_t<decltype(ref)>, ShareRef>)
              return ref.share;
            else
              return ref;
          },
          field.at(recipe, 0)));
      EXPECT_FALSE(field.meaning.empty()) << field.key;
    }
  }
  EXPECT_EQ(keys.size(), count);
  EXPECT_EQ(places.size(), count);
}

TEST(Schema, DefaultsAreInRange) {
  // The elements' required keys aside: those have no default.
  EXPECT_EQ(refusal(to_toml(Recipe{})), "accepted");
}

TEST(Schema, SaysAnIntervalInWords) {
  EXPECT_EQ(interval({}), "");
  EXPECT_EQ(interval({.min = 0}), ">= 0");
  EXPECT_EQ(interval({.min = 0, .max = 1}), "from 0 to 1");
  EXPECT_EQ(interval({.min = 0, .max = 1, .above_min = true, .below_max = true}), "> 0 and < 1");
  EXPECT_EQ(interval({.max = 2e6}), "<= 2e6");
  EXPECT_EQ(interval({.min = 1, .max = 65536}), "from 1 to 65536");
  EXPECT_FALSE(in_range(std::nan(""), {}));
  EXPECT_FALSE(in_range(HUGE_VAL, {.min = 0}));
  EXPECT_TRUE(in_range(-1, {.min = 0, .special = -1}));
}

TEST(Schema, ACapIsNamedWhereItIsPassed) {
  EXPECT_EQ(interval({.min = 0, .cap = 10}), ">= 0");
  EXPECT_EQ(interval({.min = 0, .cap = 10}, true), "from 0 to 10");
  EXPECT_EQ(interval({.min = 1, .above_min = true, .cap = 1e6}, true), "> 1 and <= 1e6");
  EXPECT_EQ(interval({.cap = 1e12}, true), "from -1e12 to 1e12");
  EXPECT_TRUE(in_range(10, {.min = 0, .cap = 10}));
  EXPECT_FALSE(in_range(10.5, {.min = 0, .cap = 10}));
  EXPECT_FALSE(in_range(-1e13, {.cap = 1e12}));
}

// Whatever number a recipe holds, products of a few of them are still finite.
TEST(Schema, EveryNumberHasAnEnd) {
  Recipe recipe;
  for (const Section& section : schema()) {
    if (section.is_list()) section.resize(recipe, 1);
    for (const Field& field : section.fields) {
      const Ref ref = field.at(recipe, 0);
      const Limits& limits = field.limits;
      if (std::holds_alternative<double*>(ref)) {
        EXPECT_LE(std::min(limits.max, limits.cap), 1e12) << field.key;
        EXPECT_GE(std::max(limits.min, -limits.cap), -1e12) << field.key;
      }
      if (std::holds_alternative<int64_t*>(ref) && field.key != "run.seed") {
        EXPECT_LE(limits.max, 1e9) << field.key;
        EXPECT_GE(limits.min, 0) << field.key;
      }
    }
  }
}

}  // namespace
}  // namespace unigrpo::recipe

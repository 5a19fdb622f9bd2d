#include "recipe/checks.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace unigrpo::recipe {

namespace {

using Finding = std::optional<Conflict>;

bool has_segment(const Recipe& recipe, const char* kind) {
  return std::ranges::count(recipe.rollout.program, kind) > 0;
}

Finding check_program(const Recipe& recipe, Command) {
  constexpr size_t kMaxSegments = 16;
  const size_t count = recipe.rollout.program.size();
  if (count > kMaxSegments) {
    return Conflict{{"rollout.program"}, fmt::format("expected at most {} segments, got {}", kMaxSegments, count)};
  }
  return {};
}

Finding check_window(const Recipe& recipe, Command) {
  const auto& window = recipe.rollout.window;
  const int64_t num_steps = recipe.rollout.num_steps;
  if (!has_segment(recipe, "image") || window.mode == flow::WindowMode::all) return {};
  const bool fixed = window.mode == flow::WindowMode::fixed;
  if (!fixed && window.last > num_steps) {
    return Conflict{{"rollout.window.last", "rollout.num_steps"},
                    fmt::format("expected at most rollout.num_steps = {}, got {}", num_steps, window.last)};
  }
  const bool to_the_end = fixed || window.last < 0;
  const int64_t end = to_the_end ? num_steps : window.last;
  if (window.first + window.width > end) {
    return Conflict{
        {"rollout.window.width", "rollout.window.first", "rollout.num_steps", "rollout.window.last"},
        fmt::format("expected first + width of at most {} = {}, got {} + {}",
                    to_the_end ? "rollout.num_steps" : "rollout.window.last", end, window.first, window.width)};
  }
  return {};
}

Finding check_cps(const Recipe& recipe, Command) {
  const auto& sde = recipe.rollout.sde;
  if (sde.kind != flow::SdeKind::cps) return {};
  if (sde.noise_level > 1) {
    return Conflict{{"rollout.sde.noise_level", "rollout.sde.kind"},
                    fmt::format("expected at most 1 with rollout.sde.kind = \"cps\", got {}", sde.noise_level)};
  }
  if (recipe.grpo.image.ratio_norm) {
    return Conflict{{"grpo.image.ratio_norm", "rollout.sde.kind"},
                    "expected false with rollout.sde.kind = \"cps\" (flow_sde and dance only), got true"};
  }
  // The std of the last step is 0, so it is never trained.
  if (has_segment(recipe, "image") && recipe.rollout.num_steps < 2) {
    return Conflict{{"rollout.num_steps", "rollout.sde.kind"},
                    "expected at least 2 with rollout.sde.kind = \"cps\" (its last step has no noise), got 1"};
  }
  return {};
}

Finding check_something_is_trained(const Recipe& recipe, Command command) {
  if (command == Command::sft) {
    const auto& sft = recipe.sft;
    if (sft.stage != train::SftStage::joint || sft.text_weight > 0 || sft.image_weight > 0) return {};
    return Conflict{{"sft.text_weight", "sft.image_weight"},
                    "expected a weight > 0 here or in sft.image_weight: nothing is trained"};
  }
  const bool text = has_segment(recipe, "text");
  const bool image = has_segment(recipe, "image");
  const auto& grpo = recipe.grpo;
  if ((text && grpo.text.weight > 0) || (image && grpo.image.weight > 0)) return {};
  if (!text) {
    return Conflict{{"grpo.image.weight", "rollout.program"},
                    "expected a weight > 0: rollout.program has images only, so nothing is trained"};
  }
  if (!image) {
    return Conflict{{"grpo.text.weight", "rollout.program"},
                    "expected a weight > 0: rollout.program has text only, so nothing is trained"};
  }
  return Conflict{{"grpo.text.weight", "grpo.image.weight"},
                  "expected a weight > 0 here or in grpo.image.weight: nothing is trained"};
}

Finding check_updates(const Recipe& recipe, Command) {
  const auto& grpo = recipe.grpo;
  const int64_t samples = grpo.prompts_per_step * grpo.group_size;
  if (grpo.num_updates <= samples) return {};
  return Conflict{
      {"grpo.num_updates", "grpo.prompts_per_step", "grpo.group_size"},
      fmt::format("expected at most prompts_per_step * group_size = {}, got {}", samples, grpo.num_updates)};
}

bool judges_text(reward::RewardKind kind) {
  using enum reward::RewardKind;
  return kind == format || kind == answer || kind == text_rules;
}

bool judges_both(reward::RewardKind kind) {
  return kind == reward::RewardKind::http || kind == reward::RewardKind::plugin;
}

/// Kinds that are networks in folders of their own.
bool is_network(reward::RewardKind kind) {
  using enum reward::RewardKind;
  return kind == clip_score || kind == pick_score || kind == hps || kind == aesthetic;
}

Finding check_model(const reward::TermConfig& term, const std::string& key) {
  if (is_network(term.kind) != term.model.empty()) return {};
  if (term.model.empty()) {
    return Conflict{{key + ".model", key + ".kind"},
                    fmt::format("expected the model's folder for kind \"{}\", got \"\"", enum_name(term.kind))};
  }
  return Conflict{{key + ".kind", key + ".model"},
                  fmt::format("expected a kind that has a model beside model, got \"{}\"", enum_name(term.kind))};
}

Finding check_plugin(const reward::TermConfig& term, const std::string& key) {
  const bool is_plugin = term.kind == reward::RewardKind::plugin;
  if (is_plugin && term.path.empty()) {
    return Conflict{{key + ".path", key + ".kind"}, "expected the plugin's file for kind \"plugin\", got \"\""};
  }
  if (!is_plugin && !(term.path.empty() && term.settings == "{}")) {
    return Conflict{{key + ".kind", key + ".path", key + ".settings"},
                    fmt::format("expected \"plugin\" beside path or settings, got \"{}\"", enum_name(term.kind))};
  }
  return {};
}

Finding check_text_rules(const reward::TermConfig& term, const std::string& key) {
  if (term.overlong_cache > term.max_tokens) {
    return Conflict{{key + ".overlong_cache", key + ".max_tokens"},
                    fmt::format("expected at most max_tokens = {}, got {}", term.max_tokens, term.overlong_cache)};
  }
  if (term.max_tokens > 0 && term.min_tokens > term.max_tokens) {
    return Conflict{{key + ".min_tokens", key + ".max_tokens"},
                    fmt::format("expected at most max_tokens = {}, got {}", term.max_tokens, term.min_tokens)};
  }
  return {};
}

bool is_loopback(std::string_view url) {
  std::string_view host = url.substr(std::string_view("http://").size());
  host = host.substr(0, host.find('/'));
  const auto names = [&](std::string_view name) { return host == name || host.starts_with(std::string(name) + ":"); };
  const bool is_v4 = host.starts_with("127.") && host.find_first_not_of("0123456789.:") == std::string_view::npos;
  return is_v4 || names("localhost") || names("[::1]");
}

/// What [reward.terms.http] of a term that uses it needs. key: "reward.terms.0".
Finding check_http(const reward::TermConfig& term, const std::string& key) {
  const reward::HttpConfig& http = term.http;
  const bool judges = term.kind == reward::RewardKind::http;
  const bool detects = (term.kind == reward::RewardKind::geneval || term.kind == reward::RewardKind::edit) &&
                       term.detector == reward::DetectorKind::http;
  if (!judges && !detects) return {};
  const std::string user = judges ? ".kind" : ".detector";
  if (http.url.empty()) {
    return Conflict{{key + ".http.url", key + user},
                    fmt::format("expected an address for {} = \"http\"", user.substr(1))};
  }
  if (http.url.starts_with("http://") && !http.allow_plain_http && !is_loopback(http.url)) {
    return Conflict{{key + ".http.url", key + ".http.allow_plain_http"},
                    "expected https:// for another machine (or allow_plain_http = true on a private network)"};
  }
  if (http.min_number > http.max_number) {
    return Conflict{{key + ".http.min_number", key + ".http.max_number"},
                    fmt::format("expected at most max_number = {}, got {}", http.max_number, http.min_number)};
  }
  if (!judges || http.format != reward::HttpFormat::chat) return {};
  const std::string format = key + ".http.format";
  if (http.model.empty()) return Conflict{{key + ".http.model", format}, "expected a model for format = \"chat\""};
  if (http.message_template.empty()) {
    return Conflict{{key + ".http.template", format}, "expected a message for format = \"chat\""};
  }
  if (http.score_pointer.empty() == http.score_regex.empty()) {
    return Conflict{{key + ".http.score_pointer", key + ".http.score_regex", format},
                    "expected this or score_regex, one of them, for format = \"chat\""};
  }
  return {};
}

/// What a judge needs, trained on or held out.
Finding check_reward(const reward::TermConfig& term, const std::string& key) {
  for (const auto check : {check_model, check_plugin, check_text_rules, check_http}) {
    if (const Finding conflict = check(term, key)) return conflict;
  }
  return {};
}

Finding check_terms(const Recipe& recipe, Command command) {
  std::map<std::string, size_t> first_of;
  bool weighted = false;
  for (size_t i = 0; i < recipe.reward.terms.size(); ++i) {
    const reward::TermConfig& term = recipe.reward.terms[i];
    const std::string key = fmt::format("reward.terms.{}", i);
    const std::string name = term.name.empty() ? std::string(enum_name(term.kind)) : term.name;
    const auto [found, is_new] = first_of.emplace(name, i);
    if (!is_new) {
      return Conflict{{key + ".name", key + ".kind"},
                      fmt::format("expected a name of its own, got \"{}\" as in reward.terms.{}", name, found->second)};
    }
    if (const Finding conflict = check_reward(term, key)) return conflict;
    const char* judged = judges_text(term.kind) ? "text" : "image";
    if (command == Command::train && !judges_both(term.kind) && !has_segment(recipe, judged)) {
      return Conflict{{key + ".kind", "rollout.program"},
                      fmt::format("expected \"{}\" in rollout.program for kind \"{}\"", judged, enum_name(term.kind))};
    }
    weighted = weighted || term.weight != 0;
  }
  for (size_t i = 0; i < recipe.reward.terms.size(); ++i) {
    const reward::TermConfig& term = recipe.reward.terms[i];
    const auto gate = first_of.find(term.gate);
    if (term.gate.empty() || (gate != first_of.end() && gate->second != i)) continue;
    return Conflict{{fmt::format("reward.terms.{}.gate", i)},
                    fmt::format("expected the name of another reward term, got \"{}\"", term.gate)};
  }
  if (weighted || recipe.reward.terms.empty()) return {};
  return Conflict{{"reward.terms.0.weight"}, "expected a weight other than 0 in at least one term"};
}

Finding check_eval(const Recipe& recipe, Command) {
  for (size_t i = 0; i < recipe.eval.rewards.size(); ++i) {
    const std::string key = fmt::format("eval.rewards.{}", i);
    if (const Finding conflict = check_reward(recipe.eval.rewards[i], key)) return conflict;
  }
  if (!recipe.eval.keep_best || (recipe.eval.every > 0 && !recipe.eval.prompts.empty())) return {};
  return Conflict{{"eval.keep_best", "eval.every", "eval.prompts"}, "expected eval.every > 0 and eval.prompts with it"};
}

}  // namespace

std::optional<std::string> find_reward_conflict(const reward::TermConfig& term) {
  const Finding conflict = check_reward(term, "reward");
  if (!conflict) return std::nullopt;
  return fmt::format("{}: {}", conflict->keys.front(), conflict->message);
}

std::optional<Conflict> find_conflict(const Recipe& recipe, Command command) {
  for (const auto check :
       {check_program, check_window, check_cps, check_something_is_trained, check_updates, check_terms, check_eval}) {
    if (Finding found = check(recipe, command)) return found;
  }
  return {};
}

}  // namespace unigrpo::recipe

#include "reward/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace unigrpo::reward {
namespace {

using data::SegmentKind;
using Finding = std::optional<Conflict>;

/// What a kind judges; empty where it takes whatever there is.
std::optional<SegmentKind> judged_by(RewardKind kind) {
  using enum RewardKind;
  if (kind == http || kind == plugin) return std::nullopt;
  if (judges_clips(kind)) return SegmentKind::av;
  return kind == format || kind == answer || kind == text_rules ? SegmentKind::text : SegmentKind::image;
}

Finding check_network(const TermConfig& term, const std::string& key) {
  if (!is_network(term.kind) || !term.network.model.empty()) return {};
  return Conflict{{key + ".model", key + ".kind"},
                  fmt::format("expected the model's folder for kind \"{}\", got \"\"", enum_name(term.kind))};
}

Finding check_objects(const TermConfig& term, const std::string& key) {
  if (term.kind != RewardKind::edit || term.objects.metric != GenevalMetric::official) return {};
  return Conflict{{key + ".metric", key + ".kind"},
                  "expected strict, soft or mixed for kind \"edit\", got \"official\": GenEval has no rule for edits"};
}

Finding check_plugin(const TermConfig& term, const std::string& key) {
  if (term.kind != RewardKind::plugin || !term.plugin.path.empty()) return {};
  return Conflict{{key + ".path", key + ".kind"}, "expected the plugin's file for kind \"plugin\", got \"\""};
}

Finding check_text_rules(const TermConfig& term, const std::string& key) {
  const TextRulesConfig& rules = term.text_rules;
  if (rules.overlong_cache > rules.max_tokens) {
    return Conflict{{key + ".overlong_cache", key + ".max_tokens"},
                    fmt::format("expected at most max_tokens = {}, got {}", rules.max_tokens, rules.overlong_cache)};
  }
  if (rules.max_tokens > 0 && rules.min_tokens > rules.max_tokens) {
    return Conflict{{key + ".min_tokens", key + ".max_tokens"},
                    fmt::format("expected at most max_tokens = {}, got {}", rules.max_tokens, rules.min_tokens)};
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

Finding check_endpoint(const TermConfig& term, const std::string& key) {
  if (!uses_http(term)) return {};
  const EndpointConfig& http = term.http;
  const std::string user = term.kind == RewardKind::http ? ".kind" : ".detector";
  if (http.url.empty()) {
    return Conflict{{key + ".http.url", key + user},
                    fmt::format("expected an address for {} = \"http\"", user.substr(1))};
  }
  if (http.url.starts_with("http://") && !http.allow_plain_http && !is_loopback(http.url)) {
    return Conflict{{key + ".http.url", key + ".http.allow_plain_http"},
                    "expected https:// for another machine (or allow_plain_http = true on a private network)"};
  }
  return {};
}

Finding check_judge(const TermConfig& term, const std::string& key) {
  if (term.kind != RewardKind::http) return {};
  const JudgeConfig& judge = term.judge;
  if (judge.min_number > judge.max_number) {
    return Conflict{{key + ".http.min_number", key + ".http.max_number"},
                    fmt::format("expected at most max_number = {}, got {}", judge.max_number, judge.min_number)};
  }
  if (judge.format != HttpFormat::chat) return {};
  const std::string format = key + ".http.format";
  if (judge.model.empty()) return Conflict{{key + ".http.model", format}, "expected a model for format = \"chat\""};
  if (judge.message_template.empty()) {
    return Conflict{{key + ".http.template", format}, "expected a message for format = \"chat\""};
  }
  if (judge.score_pointer.empty() == judge.score_regex.empty()) {
    return Conflict{{key + ".http.score_pointer", key + ".http.score_regex", format},
                    "expected this or score_regex, one of them, for format = \"chat\""};
  }
  return {};
}

Finding check_names_and_gates(const RewardConfig& config) {
  std::map<std::string, size_t> first_of;
  for (size_t i = 0; i < config.terms.size(); ++i) {
    const std::string key = fmt::format("rewards.{}", i), name = term_name(config.terms[i]);
    const auto [found, is_new] = first_of.emplace(name, i);
    if (is_new) continue;
    return Conflict{{key + ".name", key + ".kind"},
                    fmt::format("expected a name of its own, got \"{}\" as in rewards.{}", name, found->second)};
  }
  for (size_t i = 0; i < config.terms.size(); ++i) {
    const std::string& gate = config.terms[i].gate;
    const auto found = first_of.find(gate);
    if (gate.empty() || (found != first_of.end() && found->second != i)) continue;
    return Conflict{{fmt::format("rewards.{}.gate", i)},
                    fmt::format("expected the name of another reward term, got \"{}\"", gate)};
  }
  return {};
}

}  // namespace

std::string term_name(const TermConfig& term) {
  return term.name.empty() ? std::string(enum_name(term.kind)) : term.name;
}

std::optional<Conflict> validate(const TermConfig& term, const std::string& key) {
  for (const auto check : {check_network, check_objects, check_plugin, check_text_rules, check_endpoint, check_judge}) {
    if (Finding conflict = check(term, key)) return conflict;
  }
  return {};
}

std::optional<Conflict> validate(const RewardConfig& config, std::span<const SegmentKind> episode) {
  for (size_t i = 0; i < config.terms.size(); ++i) {
    const TermConfig& term = config.terms[i];
    const std::string key = fmt::format("rewards.{}", i);
    if (Finding conflict = validate(term, key)) return conflict;
    if (std::ranges::count(episode, SegmentKind::av) > 0 && !judges_clips(term.kind)) {
      return Conflict{{key + ".kind", "rollout.episode"},
                      fmt::format("expected a kind that judges clips (av_sync, ...) with \"av\" in rollout.episode, "
                                  "got \"{}\"",
                                  enum_name(term.kind))};
    }
    const auto judged = judged_by(term.kind);
    if (!judged || episode.empty() || std::ranges::count(episode, *judged) > 0) continue;
    return Conflict{
        {key + ".kind", "rollout.episode"},
        fmt::format("expected \"{}\" in rollout.episode for kind \"{}\"", enum_name(*judged), enum_name(term.kind))};
  }
  if (Finding conflict = check_names_and_gates(config)) return conflict;
  const bool weighted = std::ranges::any_of(config.terms, [](const TermConfig& term) { return term.weight != 0; });
  if (weighted || config.terms.empty()) return {};
  return Conflict{{"rewards.0.weight"}, "expected a weight other than 0 in at least one term"};
}

}  // namespace unigrpo::reward

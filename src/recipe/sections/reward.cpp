#include <algorithm>

#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using reward::EndpointConfig, reward::JudgeConfig, reward::ObjectsConfig, reward::PluginConfig, reward::RewardConfig,
    reward::RewardKind, reward::TermConfig, reward::TextRulesConfig;

bool is_word(std::string_view text, std::string_view also) {
  return std::ranges::all_of(text, [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           also.find(c) != std::string_view::npos;
  });
}

constexpr TextRule kMetricName = {[](std::string_view text) { return text.size() <= 100 && is_word(text, "_-."); },
                                  "a name of letters, digits and _ - . (at most 100)", ""};
bool is_url(std::string_view text) {
  if (text.empty()) return true;
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!text.starts_with(scheme)) continue;
    text.remove_prefix(scheme.size());
    std::string_view host = text.substr(0, text.find_first_of("/?#"));
    if (host.starts_with('[')) {  // an IPv6 address
      const size_t end = host.find(']');
      if (end == std::string_view::npos || end == 1) return false;
      host.remove_prefix(end + 1);
    } else {
      const std::string_view name = host.substr(0, host.find(':'));
      const bool named = !name.empty() && std::ranges::all_of(name, [](char c) {
        return is_word(std::string_view(&c, 1), "_-.") || static_cast<unsigned char>(c) >= 0x80;
      });
      if (!named) return false;
      host.remove_prefix(name.size());
    }
    const bool port = host.empty() || (host.size() > 1 && host[0] == ':' &&
                                       host.substr(1).find_first_not_of("0123456789") == std::string_view::npos);
    return port && text.find(' ') == std::string_view::npos;
  }
  return false;
}
// No user name and password: those are secrets, and recipes are copied into run folders.
constexpr TextRule kUrl = {&is_url, "an http:// or https:// address without user name", ""};
constexpr TextRule kVariable = {
    [](std::string_view text) { return is_word(text, "_") && (text.empty() || text[0] < '0' || text[0] > '9'); },
    "the name of an environment variable", ""};
constexpr TextRule kPointer = {[](std::string_view text) { return text.empty() || text[0] == '/'; },
                               "a JSON pointer (/score)", ""};

using Term = TermConfig& (*)(Recipe& recipe, size_t index);

/// The rows that follow are for terms of these kinds.
Builder<Term>& only_kinds(Builder<Term>& rows, const std::vector<RewardKind>& kinds) {
  std::vector<std::string> names;
  for (const RewardKind kind : kinds) names.emplace_back(enum_name(kind));
  return rows.only(names, [kinds](const TermConfig& term) { return std::ranges::count(kinds, term.kind) > 0; });
}

void add_objects(Builder<Term>& rows) {
  only_kinds(rows, {RewardKind::geneval, RewardKind::edit})
      .row("metric", &TermConfig::objects, &ObjectsConfig::metric,
           "strict, soft, their mean, or official: as GenEval's own evaluator (geneval alone)")
      .row("detector", &TermConfig::objects, &ObjectsConfig::detector, "what finds the objects");
}

void add_text_rules(Builder<Term>& rows) {
  only_kinds(rows, {RewardKind::text_rules})
      .row("pattern", &TermConfig::text_rules, &TextRulesConfig::pattern,
           "Perl-compatible regular expression that must be found in the text; empty: none")
      .row("min_tokens", &TermConfig::text_rules, &TextRulesConfig::min_tokens, "shorter texts break the rules",
           between(0, kMany))
      .row("max_tokens", &TermConfig::text_rules, &TextRulesConfig::max_tokens,
           "from here on the punishment is whole; 0: no limit", between(0, kMany))
      .row("overlong_cache", &TermConfig::text_rules, &TextRulesConfig::overlong_cache,
           "last tokens before max_tokens, in which the punishment grows", between(0, kMany));
}

void add_jpeg(Builder<Term>& rows) {
  only_kinds(rows, {RewardKind::jpeg})
      .row("jpeg_prefer", &TermConfig::jpeg, &reward::JpegConfig::prefer, "which files are worth more");
}

void add_network(Builder<Term>& rows) {
  only_kinds(rows, {RewardKind::clip_score, RewardKind::pick_score, RewardKind::hps, RewardKind::aesthetic})
      .row("model", &TermConfig::network, &reward::NetworkConfig::model, "the model's folder");
}

void add_endpoint(Builder<Term>& rows) {
  rows.only({"http", "plugin", "detector = http"},
            [](const TermConfig& term) { return term.kind == RewardKind::plugin || uses_http(term); })
      .add(
          "timeout_s",
          [](TermConfig& term) -> double& {
            return term.kind == RewardKind::plugin ? term.plugin.timeout_s : term.http.timeout_s;
          },
          "of one call in seconds", between(0.001, 86400))
      .only({"http", "detector = http"}, reward::uses_http)
      .row("http.url", &TermConfig::http, &EndpointConfig::url, "where requests are posted", text(kUrl))
      .row("http.key_env", &TermConfig::http, &EndpointConfig::key_env,
           "environment variable with the key to send; empty: none", text(kVariable))
      .row("http.ca_file", &TermConfig::http, &EndpointConfig::ca_file,
           "PEM file of the authorities to trust; empty: the system's")
      .row("http.allow_plain_http", &TermConfig::http, &EndpointConfig::allow_plain_http,
           "http:// to other machines, unprotected")
      .row("http.use_proxy", &TermConfig::http, &EndpointConfig::use_proxy, "the proxies that the environment names")
      .row("http.probe", &TermConfig::http, &EndpointConfig::probe, "somebody must answer there before a run begins")
      .row("http.max_concurrent", &TermConfig::http, &EndpointConfig::max_concurrent, "requests at once",
           between(1, 512))
      .row("http.max_tries", &TermConfig::http, &EndpointConfig::max_tries, "of a request, within timeout_s",
           between(1, 100))
      .row("http.image_format", &TermConfig::http, &EndpointConfig::image_format,
           "how images are sent; jpeg, webp: at quality 95")
      .row("http.batch_size", &TermConfig::http, &EndpointConfig::batch_size,
           "json: samples a request; detector: images", between(1, 4096));
}

void add_judge(Builder<Term>& rows) {
  only_kinds(rows, {RewardKind::http})
      .row("http.format", &TermConfig::judge, &JudgeConfig::format,
           "requests of docs/HTTP_JUDGES.md, or OpenAI's chat completions")
      .row("http.whole_groups", &TermConfig::judge, &JudgeConfig::whole_groups,
           "json: all samples of a prompt in one request, for judges that compare")
      .row("http.model", &TermConfig::judge, &JudgeConfig::model, "chat: the judge's name at the server")
      .row("http.system", &TermConfig::judge, &JudgeConfig::system, "chat: system message; empty: none", lines())
      .row("http.template", &TermConfig::judge, &JudgeConfig::message_template,
           "chat: the message, with {prompt}, {text} and {metadata}; images follow it", lines())
      .row("http.max_tokens", &TermConfig::judge, &JudgeConfig::max_tokens, "chat: of a reply", between(1, 1e6))
      .row("http.temperature", &TermConfig::judge, &JudgeConfig::temperature, "chat: of the judge", between(0, 2))
      .row("http.score_pointer", &TermConfig::judge, &JudgeConfig::score_pointer,
           "chat: where in the reply, as JSON, the number stands", text(kPointer))
      .row("http.score_regex", &TermConfig::judge, &JudgeConfig::score_regex,
           "chat: the number is what its first group matches")
      .row("http.scale", &TermConfig::judge, &JudgeConfig::scale, "score = scale * number + offset", up_to(kLarge))
      .row("http.offset", &TermConfig::judge, &JudgeConfig::offset, "see scale", up_to(kScore))
      .row("http.min_number", &TermConfig::judge, &JudgeConfig::min_number, "a number below is no score", up_to(kScore))
      .row("http.max_number", &TermConfig::judge, &JudgeConfig::max_number, "a number above is no score",
           up_to(kScore));
}

void add_plugin(Builder<Term>& rows) {
  only_kinds(rows, {RewardKind::plugin})
      .row("path", &TermConfig::plugin, &PluginConfig::path, "a shared library, or a program that is its worker")
      .row("isolate", &TermConfig::plugin, &PluginConfig::isolate, "whether it runs in a process of its own")
      .row("max_memory_gib", &TermConfig::plugin, &PluginConfig::max_memory_gib, "data that its process may have",
           between(0.0625, 65536))
      .table("settings", &TermConfig::plugin, &PluginConfig::settings, "keys of its own, [rewards.settings]");
}

/// What makes a reward: the keys that trained terms and evaluation's judges have in common, kind by kind.
Builder<Term> judge_rows(Builder<Term> rows) {
  rows.row("name", &TermConfig::name, "the metric is reward/<name>; empty: the kind", text(kMetricName))
      .row("kind", &TermConfig::kind, "the judge")
      .row("dimension", &TermConfig::dimension, "which of the reward's named numbers; empty: its main one",
           text(kMetricName));
  for (const auto add : {add_objects, add_text_rules, add_jpeg, add_network, add_endpoint, add_judge, add_plugin}) {
    add(rows);
  }
  return rows.everyone();
}

Section reward_section() {
  return Builder("reward", "what a sample is worth", [](Recipe& r, size_t) -> auto& { return r.reward; })
      .row("on_error", &RewardConfig::on_error, "a term that cannot judge a sample")
      .row("max_dropped", &RewardConfig::max_dropped, "a step with a larger share dropped stops the run",
           between(0, 1));
}

Section rewards_section() {
  return judge_rows(Builder<Term>("rewards", "the reward is the weighted sum of its terms",
                                  [](Recipe& r, size_t i) -> auto& { return r.reward.terms[i]; })
                        .list_of([](Recipe& r) -> auto& { return r.reward.terms; }, kForTrain))
      .row("weight", &TermConfig::weight, "in the sum; 0: logged only", up_to(kLarge))
      .row("modality", &TermConfig::modality, "whose advantage it enters")
      .row("streams", &TermConfig::streams, "of clips: the streams that it judges, whose advantages it enters",
           list(kStream))
      .row("scale", &TermConfig::scale,
           "running: centred and divided by its standard deviation over the run, before the sum")
      .row("clip", &TermConfig::clip, "bound of the scaled score; 0: none", up_to(kScore, at_least(0)))
      .row("gate", &TermConfig::gate, "another term's name: this score is 0 where that one is below gate_min",
           text(kMetricName))
      .row("gate_min", &TermConfig::gate_min, "see gate", up_to(kScore));
}

}  // namespace

Section eval_rewards_section() {
  return judge_rows(
      Builder<Term>("eval.rewards",
                    "the judges, whatever is trained on; the first one counts; none: by what the rows hold",
                    [](Recipe& r, size_t i) -> auto& { return r.eval.rewards[i]; })
          .list_of([](Recipe& r) -> auto& { return r.eval.rewards; }));
}

std::vector<Section> reward_sections() { return {reward_section(), rewards_section()}; }

}  // namespace unigrpo::recipe

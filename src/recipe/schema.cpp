#include "recipe/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "base/text.h"

namespace unigrpo::recipe {

namespace {

bool is_word(std::string_view text, std::string_view also) {
  return std::ranges::all_of(text, [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           also.find(c) != std::string_view::npos;
  });
}

constexpr TextRule kFolderName = {[](std::string_view text) {
                                    return !text.empty() && text.size() <= 200 && text != "." && text != ".." &&
                                           text.find('/') == std::string_view::npos;
                                  },
                                  "a folder name (1 to 200 bytes, no '/')", ""};
constexpr TextRule kMetricName = {[](std::string_view text) { return text.size() <= 100 && is_word(text, "_-."); },
                                  "a name of letters, digits and _ - . (at most 100)", ""};
constexpr TextRule kNonEmpty = {[](std::string_view text) { return !text.empty(); }, "a non-empty string",
                                "non-empty strings"};
const std::string kOneStatistic =
    "one of " +
    join(std::vector<std::string>(monitor::kAlarmStatistics.begin(), monitor::kAlarmStatistics.end()), ", ");
const TextRule kStatistic = {
    [](std::string_view text) { return std::ranges::count(monitor::kAlarmStatistics, text) > 0; }, kOneStatistic,
    "statistics of docs/METRICS.md"};
constexpr TextRule kUrl = {
    [](std::string_view text) {
      // No user name and password: those are secrets, and recipes are copied into run folders.
      const size_t host = text.find("://") + 3;
      const bool known = text.starts_with("http://") || text.starts_with("https://");
      return text.empty() || (known && text.size() > host && text.find_first_of("/?#@ ", host) > host &&
                              text.substr(host, text.find('/', host) - host).find('@') == std::string_view::npos &&
                              text.find(' ') == std::string_view::npos);
    },
    "an http:// or https:// address without user name", ""};
constexpr TextRule kVariable = {
    [](std::string_view text) { return is_word(text, "_") && (text.empty() || text[0] < '0' || text[0] > '9'); },
    "the name of an environment variable", ""};
constexpr TextRule kPointer = {[](std::string_view text) { return text.empty() || text[0] == '/'; },
                               "a JSON pointer (/score)", ""};
constexpr TextRule kSegment = {[](std::string_view text) { return text == "text" || text == "image"; },
                               "\"text\" or \"image\"", "\"text\" and \"image\""};

Limits at_least(double min, double max = std::numeric_limits<double>::infinity()) { return {.min = min, .max = max}; }
Limits above(double min) { return {.min = min, .above_min = true}; }
Limits between(double min, double max) { return {.min = min, .max = max}; }
Limits strictly_between(double min, double max) {
  return {.min = min, .max = max, .above_min = true, .below_max = true};
}
Limits from_below(double min, double max) { return {.min = min, .max = max, .below_max = true}; }
Limits or_else(double special, Limits limits) {
  limits.special = special;
  return limits;
}
Limits text(const TextRule& rule) { return {.rule = &rule}; }
Limits lines() { return {.line_breaks = true}; }
Limits list(const TextRule& rule) { return {.rule = &rule, .non_empty = true}; }
Limits list_or_empty(const TextRule& rule) { return {.rule = &rule}; }

// Caps far beyond use, so that products of two counts stay exact and no allocation is absurd.
constexpr double kMany = 1e9;
constexpr double kSome = 65536;

template <typename T>
Ref reference_to(T& value) {
  if constexpr (std::is_enum_v<T>) {
    return EnumRef{&value, [](const void* p) { return enum_name(*static_cast<const T*>(p)); },
                   [](void* p, std::string_view name) {
                     const auto parsed = enum_value<T>(name);
                     if (parsed) *static_cast<T*>(p) = *parsed;
                     return parsed.has_value();
                   },
                   [] {
                     std::vector<std::string> names;
                     for (const auto& [candidate, name] : EnumNames<T>::names) names.emplace_back(name);
                     return names;
                   }};
  } else {
    return &value;
  }
}

/// Collects the rows of one table; `at` finds the config struct within a recipe.
template <typename At>
class Builder {
 public:
  Builder(std::string key, std::string meaning, At at) : at_(at) {
    section_.key = std::move(key);
    section_.meaning = std::move(meaning);
  }

  template <typename Config, typename T>
  Builder& row(const char* name, T Config::*member, const char* meaning, Limits limits = {},
               unsigned required = kOptional) {
    const std::string prefix = section_.key + (section_.is_list() ? ".N." : ".");
    section_.fields.push_back(
        {name, prefix + name,
         [at = at_, member](Recipe& recipe, size_t index) { return reference_to(at(recipe, index).*member); }, meaning,
         limits, required});
    return *this;
  }

  /// A row of a sub-table: `name` is "table.key", `holder` the member that holds the sub-table's values.
  template <typename Config, typename Sub, typename T>
  Builder& row(const char* name, Sub Config::*holder, T Sub::*member, const char* meaning, Limits limits = {}) {
    const std::string prefix = section_.key + (section_.is_list() ? ".N." : ".");
    section_.fields.push_back({name, prefix + name,
                               [at = at_, holder, member](Recipe& recipe, size_t index) {
                                 return reference_to(at(recipe, index).*holder.*member);
                               },
                               meaning, limits});
    return *this;
  }

  /// A free-form table; the member holds it as JSON.
  template <typename Config>
  Builder& table(const char* name, std::string Config::*member, const char* meaning) {
    row(name, member, meaning);
    section_.fields.back().at = [at = at_, member](Recipe& recipe, size_t index) {
      return TableRef{&(at(recipe, index).*member)};
    };
    return *this;
  }

  template <typename Items>
  Builder& list_of(Items items, unsigned required = kOptional) {
    section_.size = [items](const Recipe& recipe) { return items(const_cast<Recipe&>(recipe)).size(); };
    section_.resize = [items](Recipe& recipe, size_t count) { items(recipe).resize(count); };
    section_.required = required;
    return *this;
  }

  operator Section() const { return section_; }  // NOLINT: the end of a chain of rows

 private:
  At at_;
  Section section_;
};

/// What makes a reward: the keys that trained terms and evaluation's judges have in common.
template <typename At>
Builder<At> reward_rows(Builder<At> builder) {
  using reward::HttpConfig, reward::TermConfig;
  return builder.row("name", &TermConfig::name, "the metric is reward/<name>; empty: the kind", text(kMetricName))
      .row("kind", &TermConfig::kind, "the judge")
      .row("dimension", &TermConfig::dimension, "which of the reward's named numbers; empty: its main one",
           text(kMetricName))
      .row("measure", &TermConfig::measure, "geneval, edit: strict, soft, or their mean")
      .row("timeout_s", &TermConfig::timeout_s, "of one call in seconds, for rewards outside of this process",
           between(0.001, 86400))
      .row("model", &TermConfig::model, "clip_score, pick_score, hps, aesthetic: the model's folder")
      .row("jpeg_prefer", &TermConfig::jpeg_prefer, "jpeg: which files are worth more")
      .row("pattern", &TermConfig::pattern,
           "text_rules: Perl-compatible regular expression that must be found in the text; empty: none")
      .row("min_tokens", &TermConfig::min_tokens, "text_rules: shorter texts break the rules", between(0, kMany))
      .row("max_tokens", &TermConfig::max_tokens, "text_rules: from here on the punishment is whole; 0: no limit",
           between(0, kMany))
      .row("overlong_cache", &TermConfig::overlong_cache,
           "text_rules: last tokens before max_tokens, in which the punishment grows", between(0, kMany))
      .row("detector", &TermConfig::detector, "geneval, edit: what finds the objects")
      .row("http.url", &TermConfig::http, &HttpConfig::url, "kind = http, detector = http: where requests are posted",
           text(kUrl))
      .row("http.key_env", &TermConfig::http, &HttpConfig::key_env,
           "environment variable with the key to send; empty: none", text(kVariable))
      .row("http.ca_file", &TermConfig::http, &HttpConfig::ca_file,
           "PEM file of the authorities to trust; empty: the system's")
      .row("http.allow_plain_http", &TermConfig::http, &HttpConfig::allow_plain_http,
           "http:// to other machines, unprotected")
      .row("http.use_proxy", &TermConfig::http, &HttpConfig::use_proxy, "the proxies that the environment names")
      .row("http.max_concurrent", &TermConfig::http, &HttpConfig::max_concurrent, "requests at once", between(1, 512))
      .row("http.max_tries", &TermConfig::http, &HttpConfig::max_tries, "of a request, within timeout_s",
           between(1, 100))
      .row("http.image_format", &TermConfig::http, &HttpConfig::image_format,
           "how images are sent; jpeg, webp: at quality 95")
      .row("http.format", &TermConfig::http, &HttpConfig::format,
           "requests of docs/REWARDS.md, or OpenAI's chat completions")
      .row("http.batch_size", &TermConfig::http, &HttpConfig::batch_size, "json: samples a request; detector: images",
           between(1, 4096))
      .row("http.whole_groups", &TermConfig::http, &HttpConfig::whole_groups,
           "json: all samples of a prompt in one request, for judges that compare")
      .row("http.model", &TermConfig::http, &HttpConfig::model, "chat: the judge's name at the server")
      .row("http.system", &TermConfig::http, &HttpConfig::system, "chat: system message; empty: none", lines())
      .row("http.template", &TermConfig::http, &HttpConfig::message_template,
           "chat: the message, with {prompt}, {text} and {metadata}; images follow it", lines())
      .row("http.max_tokens", &TermConfig::http, &HttpConfig::max_tokens, "chat: of a reply", between(1, 1e6))
      .row("http.temperature", &TermConfig::http, &HttpConfig::temperature, "chat: of the judge", between(0, 2))
      .row("http.score_pointer", &TermConfig::http, &HttpConfig::score_pointer,
           "chat: where in the reply, as JSON, the number stands", text(kPointer))
      .row("http.score_regex", &TermConfig::http, &HttpConfig::score_regex,
           "chat: the number is what its first group matches")
      .row("http.scale", &TermConfig::http, &HttpConfig::scale, "kind = http: score = scale * number + offset")
      .row("http.offset", &TermConfig::http, &HttpConfig::offset, "see scale")
      .row("http.min_number", &TermConfig::http, &HttpConfig::min_number, "a number below is no score")
      .row("http.max_number", &TermConfig::http, &HttpConfig::max_number, "a number above is no score")
      .row("path", &TermConfig::path, "plugin: a shared library, or a program that is its worker")
      .row("isolate", &TermConfig::isolate, "plugin: whether it runs in a process of its own")
      .row("max_memory_gib", &TermConfig::max_memory_gib, "plugin: data that its process may have",
           between(0.0625, 65536))
      .table("settings", &TermConfig::settings, "plugin: keys of its own, [reward.terms.settings]");
}

std::vector<Section> make_schema() {
  using checkpoint::CheckpointConfig;
  using data::DataConfig;
  using flow::SdeConfig, flow::WindowConfig;
  using grpo::AdvantageConfig, grpo::GrpoConfig, grpo::ImageLossConfig, grpo::TextLossConfig;
  using monitor::AlarmsConfig, monitor::MonitorConfig;
  using optim::EmaConfig, optim::GroupConfig, optim::OptimConfig;
  using policy::LoraConfig, policy::PolicyConfig;
  using reward::RewardConfig, reward::TermConfig;
  using rollout::RolloutConfig;
  using train::EvalConfig, train::RunConfig, train::SftConfig;

  std::vector<Section> sections;
  sections.push_back(Builder("run", "the run as a whole", [](Recipe& r, size_t) -> auto& { return r.run; })
                         .row("name", &RunConfig::name, "names the run folder", text(kFolderName))
                         .row("dir", &RunConfig::dir, "run folder; empty: runs/<name>")
                         .row("seed", &RunConfig::seed, "of every random stream", at_least(0))
                         .row("num_steps", &RunConfig::num_steps, "steps of the run", between(1, kMany))
                         .row("threads", &RunConfig::threads, "0: all cores", between(0, 4096)));
  sections.push_back(
      Builder("policy", "the model that is trained", [](Recipe& r, size_t) -> auto& { return r.policy; })
          .row("model", &PolicyConfig::model, "model folder in the official BAGEL or Qwen2.5 layout", {}, kForTrain)
          .row("dtype", &PolicyConfig::dtype, "of the forward pass; master weights are float32 always")
          .row("train", &PolicyConfig::train, "all weights, or LoRA adapters")
          .row("freeze", &PolicyConfig::freeze, "patterns (* and ?) of parameters that stay as they are",
               list_or_empty(kNonEmpty))
          .row("recompute", &PolicyConfig::recompute,
               "run each layer again in the backward pass instead of keeping its activations"));
  sections.push_back(
      Builder("policy.lora", "adapters, with policy.train = \"lora\"",
              [](Recipe& r, size_t) -> auto& { return r.policy.lora; })
          .row("rank", &LoraConfig::rank, "of the two factors", between(1, 4096))
          .row("alpha", &LoraConfig::alpha, "the update is scaled by alpha / rank", above(0))
          .row("dropout", &LoraConfig::dropout, "of the adapters' inputs in the update; ratios then do not start at 1",
               between(0, 0.9))
          .row("targets", &LoraConfig::targets, "patterns (* and ?) of the weights to adapt", list(kNonEmpty)));
  sections.push_back(Builder("data", "prompts", [](Recipe& r, size_t) -> auto& {
                       return r.data;
                     }).row("prompts", &DataConfig::prompts, "prompt file (JSONL)", {}, kForTrain | kForSft));
  sections.push_back(
      Builder("rollout", "how samples are drawn", [](Recipe& r, size_t) -> auto& { return r.rollout; })
          .row("program", &RolloutConfig::program, "segments of a sample in order", list(kSegment))
          .row("num_steps", &RolloutConfig::num_steps, "denoising steps of an image", between(1, 10000))
          .row("timestep_shift", &RolloutConfig::timestep_shift, "of the time grid; 1: even steps", above(0))
          .row("image_size", &RolloutConfig::image_size, "pixels, square", between(1, 8192))
          .row("max_tokens", &RolloutConfig::max_tokens, "of a text segment, the end token included", between(1, 1e6))
          .row("temperature", &RolloutConfig::temperature, "of text sampling", above(0))
          .row("system_prompt", &RolloutConfig::system_prompt,
               "block of text before every prompt; empty: the model folder's own", lines())
          .row("token_budget", &RolloutConfig::token_budget, "tokens that one rollout batch may hold at once",
               between(1, kMany))
          .row("train_guidance", &RolloutConfig::train_guidance, "ablation only: guidance in the rollout; 1: none",
               at_least(1)));
  sections.push_back(
      Builder("rollout.sde", "the stochastic denoising step", [](Recipe& r, size_t) -> auto& { return r.rollout.sde; })
          .row("kind", &SdeConfig::kind, "Flow-GRPO's SDE, coefficients-preserving, or DanceGRPO's")
          .row("noise_level", &SdeConfig::noise_level, "a; cps: at most 1", above(0)));
  sections.push_back(
      Builder("rollout.window", "which denoising steps are stochastic and trained",
              [](Recipe& r, size_t) -> auto& { return r.rollout.window; })
          .row("mode", &WindowConfig::mode, "random: one place per prompt group and step of the run")
          .row("width", &WindowConfig::width, "stochastic steps (all: not used)", between(1, 10000))
          .row("first", &WindowConfig::first, "fixed: first stochastic step; random, sliding: the lowest",
               between(0, 10000))
          .row("last", &WindowConfig::last, "random, sliding: end of the range, exclusive; -1: the end",
               or_else(-1, between(1, 10000)))
          .row("stride", &WindowConfig::stride, "sliding: steps of the run before it moves by one", between(1, kMany)));
  sections.push_back(Builder("grpo", "batches and updates", [](Recipe& r, size_t) -> auto& { return r.grpo; })
                         .row("prompts_per_step", &GrpoConfig::prompts_per_step, "P", between(1, kSome))
                         .row("group_size", &GrpoConfig::group_size, "G: samples a prompt", between(2, kSome))
                         .row("num_updates", &GrpoConfig::num_updates,
                              "optimizer steps a rollout batch, over disjoint mini-batches", between(1, kSome))
                         .row("micro_batch_tokens", &GrpoConfig::micro_batch_tokens,
                              "tokens in one forward and backward", between(1, kMany)));
  sections.push_back(
      Builder("grpo.advantage", "rewards to advantages", [](Recipe& r, size_t) -> auto& { return r.grpo.advantage; })
          .row("normalization", &AdvantageConfig::normalization, "what the centred reward is divided by")
          .row("statistics", &AdvantageConfig::statistics,
               "whose mean and standard deviation: this group's, the prompt's over the run, or all rewards' over the "
               "run")
          .row("decay", &AdvantageConfig::decay,
               "prompt, running: share of the earlier steps' statistics that a step keeps", from_below(0, 1))
          .row("combine", &AdvantageConfig::combine, "several reward terms")
          .row("normalize_batch", &AdvantageConfig::normalize_batch,
               "advantages once more over all samples of the step (GDPO)")
          .row("best_of", &AdvantageConfig::best_of,
               "train on this many best of a group and its worst_of worst; 0 and 0: on all", between(0, kSome))
          .row("worst_of", &AdvantageConfig::worst_of, "see best_of", between(0, kSome))
          .row("eps", &AdvantageConfig::eps, "added to the standard deviation", at_least(0))
          .row("ddof", &AdvantageConfig::ddof, "of the standard deviation", between(0, 1))
          .row("clip", &AdvantageConfig::clip, "bound of the image loss's advantages", above(0))
          .row("zero_std", &AdvantageConfig::zero_std, "a group without spread: A = 0, leaves, or is replaced")
          .row("max_resamples", &AdvantageConfig::max_resamples,
               "resample: draws at most, before such groups leave (DAPO)", between(1, 100)));
  sections.push_back(
      Builder("grpo.text", "text loss", [](Recipe& r, size_t) -> auto& { return r.grpo.text; })
          .row("weight", &TextLossConfig::weight, "0: text is not trained", at_least(0))
          .row("importance", &TextLossConfig::importance, "ratio of a token, of a sequence (GSPO), or CISPO")
          .row("aggregation", &TextLossConfig::aggregation, "mean over tokens, over sequences, or Dr.GRPO's")
          .row("clip_low", &TextLossConfig::clip_low, "ratios are clipped below 1 - clip_low", strictly_between(0, 1))
          .row("clip_high", &TextLossConfig::clip_high, "ratios are clipped above 1 + clip_high", above(0))
          .row("dual_clip", &TextLossConfig::dual_clip, "bound for negative advantages; 0: off", or_else(0, above(1)))
          .row("kl_beta", &TextLossConfig::kl_beta, "weight of the KL to the reference", at_least(0))
          .row("kl_estimator", &TextLossConfig::kl_estimator, "of that KL")
          .row("max_length", &TextLossConfig::max_length, "fixed_length: the divisor; 0: rollout.max_tokens",
               between(0, 1e6))
          .row("truncated", &TextLossConfig::truncated, "texts that the length limit cut"));
  sections.push_back(Builder("grpo.image", "image loss", [](Recipe& r, size_t) -> auto& { return r.grpo.image; })
                         .row("weight", &ImageLossConfig::weight, "0: images are not trained", at_least(0))
                         .row("clip_range", &ImageLossConfig::clip_range, "ratios are clipped to 1 +- clip_range",
                              strictly_between(0, 1))
                         .row("ratio_norm", &ImageLossConfig::ratio_norm, "GRPO-Guard's ratios; flow_sde and dance")
                         .row("step_weight", &ImageLossConfig::step_weight, "of a denoising step in the loss")
                         .row("context_gradient", &ImageLossConfig::context_gradient,
                              "whether the image loss reaches the text context")
                         .row("penalty", &ImageLossConfig::penalty, "what holds the policy near the reference")
                         .row("penalty_weight", &ImageLossConfig::penalty_weight, "of the penalty", at_least(0)));
  sections.push_back(Builder("reward", "what a sample is worth", [](Recipe& r, size_t) -> auto& { return r.reward; })
                         .row("on_error", &RewardConfig::on_error, "a term that cannot judge a sample")
                         .row("max_dropped", &RewardConfig::max_dropped,
                              "a step with a larger share dropped stops the run", between(0, 1)));
  sections.push_back(reward_rows(Builder("reward.terms", "the reward is the weighted sum of its terms",
                                         [](Recipe& r, size_t i) -> auto& { return r.reward.terms[i]; })
                                     .list_of([](Recipe& r) -> auto& { return r.reward.terms; }, kForTrain))
                         .row("weight", &TermConfig::weight, "in the sum; 0: logged only")
                         .row("drives", &TermConfig::drives, "whose advantage it enters")
                         .row("scale", &TermConfig::scale,
                              "running: centred and divided by its standard deviation over the run, before the sum")
                         .row("clip", &TermConfig::clip, "bound of the scaled score; 0: none", at_least(0))
                         .row("gate", &TermConfig::gate,
                              "another term's name: this score is 0 where that one is below gate_min",
                              text(kMetricName))
                         .row("gate_min", &TermConfig::gate_min, "see gate"));
  sections.push_back(Builder("optim", "AdamW", [](Recipe& r, size_t) -> auto& { return r.optim; })
                         .row("lr", &OptimConfig::lr, "learning rate", at_least(0))
                         .row("beta1", &OptimConfig::beta1, "decay of the first moment", from_below(0, 1))
                         .row("beta2", &OptimConfig::beta2, "decay of the second moment", from_below(0, 1))
                         .row("eps", &OptimConfig::eps, "added to the denominator", above(0))
                         .row("weight_decay", &OptimConfig::weight_decay, "decoupled", at_least(0))
                         .row("warmup_steps", &OptimConfig::warmup_steps, "steps of linear warm-up", between(0, kMany))
                         .row("schedule", &OptimConfig::schedule, "after warm-up, to 0 at run.num_steps")
                         .row("max_grad_norm", &OptimConfig::max_grad_norm, "0: no clipping", at_least(0))
                         .row("on_nonfinite", &OptimConfig::on_nonfinite, "a loss or gradient that is not finite")
                         .row("max_skipped", &OptimConfig::max_skipped, "skipped steps in a row before the run stops",
                              between(0, kMany)));
  sections.push_back(
      Builder("optim.groups", "parameters with their own rates; the first pattern that fits wins",
              [](Recipe& r, size_t i) -> auto& { return r.optim.groups[i]; })
          .list_of([](Recipe& r) -> auto& { return r.optim.groups; })
          .row("pattern", &GroupConfig::pattern, "of parameter names, * and ?", text(kNonEmpty), kAlways)
          .row("lr", &GroupConfig::lr, "learning rate", at_least(0), kAlways)
          .row("weight_decay", &GroupConfig::weight_decay, "-1: optim.weight_decay", or_else(-1, at_least(0))));
  sections.push_back(
      Builder("optim.ema", "moving average of the weights", [](Recipe& r, size_t) -> auto& { return r.optim.ema; })
          .row("enabled", &EmaConfig::enabled, "sample, evaluate and export with it")
          .row("decay", &EmaConfig::decay, "share of the average that a step keeps", from_below(0, 1)));
  sections.push_back(Builder("checkpoint", "checkpoints", [](Recipe& r, size_t) -> auto& { return r.checkpoint; })
                         .row("every", &CheckpointConfig::every, "steps; 0: only at the end", between(0, kMany))
                         .row("keep_last", &CheckpointConfig::keep_last, "checkpoints that stay", between(1, kMany))
                         .row("on_disk_full", &CheckpointConfig::on_disk_full, "a checkpoint that does not fit"));
  sections.push_back(
      Builder("monitor", "what is shown and measured on the way", [](Recipe& r, size_t) -> auto& { return r.monitor; })
          .row("sample_every", &MonitorConfig::sample_every, "steps between sample grids; 0: never", between(0, kMany))
          .row("num_samples", &MonitorConfig::num_samples, "samples a grid", between(1, 4096))
          .row("tensorboard", &MonitorConfig::tensorboard, "write event files")
          .row("report", &MonitorConfig::report, "write report.html at the end"));
  sections.push_back(
      Builder("eval", "scores on prompts that are not trained on", [](Recipe& r, size_t) -> auto& { return r.eval; })
          .row("prompts", &EvalConfig::prompts, "prompt file; empty: no evaluation")
          .row("every", &EvalConfig::every, "steps between evaluations; 0: only before and after", between(0, kMany))
          .row("samples", &EvalConfig::samples, "samples a prompt", between(1, 4096))
          .row("max_prompts", &EvalConfig::max_prompts, "0: all", between(0, kMany))
          .row("guidance", &EvalConfig::guidance, "above 1: before and after are also scored with this guidance",
               between(0, 100))
          .row("keep_best", &EvalConfig::keep_best,
               "the model with the best score so far is kept as best/ in the run folder; needs every"));
  sections.push_back(reward_rows(
      Builder("eval.rewards", "the judges, whatever is trained on; the first one counts; none: geneval, strict",
              [](Recipe& r, size_t i) -> auto& { return r.eval.rewards[i]; })
          .list_of([](Recipe& r) -> auto& { return r.eval.rewards; })));
  sections.push_back(
      Builder("monitor.alarms", "statistics of a few prompts' samples that leave what the starting policy made of them",
              [](Recipe& r, size_t) -> auto& { return r.monitor.alarms; })
          .row("enabled", &AlarmsConfig::enabled, "measure and watch them")
          .row("action", &AlarmsConfig::action, "what an alarm does besides being told")
          .row("statistics", &AlarmsConfig::statistics, "which; empty: all", list_or_empty(kStatistic))
          .row("prompts", &AlarmsConfig::prompts, "watched, evenly spread over the prompt file", between(1, kMany))
          .row("samples", &AlarmsConfig::samples, "of each; diversity needs two", between(1, kSome))
          .row("every", &AlarmsConfig::every, "steps between looks", between(1, kMany))
          .row("allowance", &AlarmsConfig::allowance,
               "standard deviations (between the prompts, at the start) that a statistic may drift", at_least(0))
          .row("threshold", &AlarmsConfig::threshold,
               "sum over the looks of what lies beyond the allowance that raises the alarm", above(0)));
  sections.push_back(
      Builder("sft", "warm start: unigrpo sft", [](Recipe& r, size_t) -> auto& { return r.sft; })
          .row("stage", &SftConfig::stage, "what is trained")
          .row("output", &SftConfig::output, "model folder to write", {}, kForSft)
          .row("batch_size", &SftConfig::batch_size, "samples a step", between(1, kSome))
          .row("num_examples", &SftConfig::num_examples, "joint: examples drawn from the embedded world, then reused",
               between(1, kMany))
          .row("wrong_plan", &SftConfig::wrong_plan,
               "embedded world: share of plans made wrong on purpose, in edits and first rounds too", between(0, 1))
          .row("wrong_scene", &SftConfig::wrong_scene, "embedded world: share of images made to depart from the plan",
               between(0, 1))
          .row("answer", &SftConfig::answer, "embedded world: share of questions about a picture", between(0, 1))
          .row("describe", &SftConfig::describe, "embedded world: share of pictures told in words", between(0, 1))
          .row("edit", &SftConfig::edit, "embedded world: share of changes of a picture", between(0, 1))
          .row("mend", &SftConfig::mend, "embedded world: share of two rounds, the second after a look at the first",
               between(0, 1))
          .row("wrong_answer", &SftConfig::wrong_answer, "answer: share of answers made wrong on purpose",
               between(0, 1))
          .row("wrong_first", &SftConfig::wrong_first,
               "mend: share of first pictures that depart from their plan, and are not trained on", between(0, 1))
          .row("text_weight", &SftConfig::text_weight, "of the cross-entropy", at_least(0))
          .row("image_weight", &SftConfig::image_weight, "of the velocity MSE", at_least(0))
          .row("timesteps_per_image", &SftConfig::timesteps_per_image, "noisy copies that share one context",
               between(1, 1024))
          .row("prompt_dropout", &SftConfig::prompt_dropout, "share of samples trained without context, for guidance",
               between(0, 1))
          .row("kl_weight", &SftConfig::kl_weight, "autoencoder: of the posterior KL", at_least(0)));
  return sections;
}

/// A bound as people write it: 0.5, 65536, 1e9.
std::string plain(double value) {
  double mantissa = value;
  int exponent = 0;
  while (mantissa >= 10 && std::fmod(mantissa, 10) == 0) {
    mantissa /= 10;
    ++exponent;
  }
  return exponent >= 6 ? fmt::format("{}e{}", mantissa, exponent) : fmt::format("{}", value);
}

/// A recipe in which every field of the schema exists, so that its type can be asked for.
Recipe with_one_element_each() {
  Recipe recipe;
  for (const Section& section : schema()) {
    if (section.is_list()) section.resize(recipe, 1);
  }
  return recipe;
}

}  // namespace

const std::vector<Section>& schema() {
  static const std::vector<Section> sections = make_schema();
  return sections;
}

const Section* find_section(std::string_view key) {
  const auto found = std::ranges::find(schema(), key, &Section::key);
  return found == schema().end() ? nullptr : &*found;
}

const Field* find_field(const Section& section, std::string_view name) {
  const auto found = std::ranges::find(section.fields, name, &Field::name);
  return found == section.fields.end() ? nullptr : &*found;
}

bool has_table(const Section& section, std::string_view name) {
  return std::ranges::any_of(section.fields, [&](const Field& field) {
    return field.name.size() > name.size() && field.name.starts_with(name) && field.name[name.size()] == '.';
  });
}

bool in_range(double value, const Limits& limits) {
  if (limits.special && value == *limits.special) return true;
  const bool low = limits.above_min ? value > limits.min : value >= limits.min;
  const bool high = limits.below_max ? value < limits.max : value <= limits.max;
  return low && high && std::isfinite(value);
}

std::string interval(const Limits& limits) {
  const double infinity = std::numeric_limits<double>::infinity();
  const bool low = limits.min != -infinity;
  const bool high = limits.max != infinity;
  if (low && high && !limits.above_min && !limits.below_max) {
    return fmt::format("from {} to {}", plain(limits.min), plain(limits.max));
  }
  std::string out;
  if (low) out = fmt::format("{} {}", limits.above_min ? ">" : ">=", plain(limits.min));
  if (high) {
    if (low) out += " and ";
    out += fmt::format("{} {}", limits.below_max ? "<" : "<=", plain(limits.max));
  }
  return out;
}

std::string type_name(const Field& field) {
  struct Visitor {
    const char* operator()(bool*) const { return "boolean"; }
    const char* operator()(int64_t*) const { return "integer"; }
    const char* operator()(double*) const { return "float"; }
    const char* operator()(std::string*) const { return "string"; }
    const char* operator()(std::vector<std::string>*) const { return "list of strings"; }
    const char* operator()(const EnumRef&) const { return "choice"; }
    const char* operator()(const TableRef&) const { return "table"; }
  };
  Recipe sample = with_one_element_each();
  return std::visit(Visitor{}, field.at(sample, 0));
}

std::string expectation(const Field& field) {
  Recipe sample = with_one_element_each();
  const Limits& limits = field.limits;
  const auto number = [&](const char* kind) {
    std::string out = limits.special ? fmt::format("{} or {}", plain(*limits.special), kind) : kind;
    const std::string range = interval(limits);
    return range.empty() ? out : out + " " + range;
  };
  struct Visitor {
    const Limits& limits;
    const decltype(number)& number_text;
    std::string operator()(bool*) const { return "true or false"; }
    std::string operator()(int64_t*) const { return number_text("an integer"); }
    std::string operator()(double*) const { return number_text("a number"); }
    std::string operator()(std::string*) const {
      return std::string(limits.rule != nullptr ? limits.rule->one : "a string");
    }
    std::string operator()(std::vector<std::string>*) const {
      return fmt::format("a {}list of {}", limits.non_empty ? "non-empty " : "",
                         limits.rule != nullptr ? limits.rule->many : "strings");
    }
    std::string operator()(const EnumRef& value) const { return "one of " + join(value.choices(), " | "); }
    std::string operator()(const TableRef&) const { return "a table"; }
  };
  return std::visit(Visitor{limits, number}, field.at(sample, 0));
}

}  // namespace unigrpo::recipe

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/enum_names.h"
#include "base/error.h"
#include "base/sha256.h"
#include "cli/commands.h"
#include "cli/model_commands.h"
#include "io/atomic_file.h"
#include "monitor/samples_file.h"
#include "recipe/free_table.h"
#include "recipe/parse.h"
#include "reward/rewarder.h"

namespace unigrpo::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Options {
  reward::PluginConfig plugin;
  std::string recipe;
  std::string samples;
  std::string settings;
  std::vector<std::string> overrides;
  std::string isolate = "process";
  std::string json;
};

struct Statistics {
  size_t count = 0;
  double mean = 0, spread = 0, min = 0, max = 0;
};

Statistics statistics_of(const std::vector<double>& values) {
  Statistics out{.count = values.size()};
  if (values.empty()) return out;
  for (const double value : values) out.mean += value;
  out.mean /= static_cast<double>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - out.mean) * (value - out.mean);
  out.spread = std::sqrt(squares / static_cast<double>(values.size()));
  const auto [low, high] = std::ranges::minmax(values);
  out.min = low;
  out.max = high;
  return out;
}

std::string settings_of(const Options& options) {
  std::string json = "{}";
  if (!options.settings.empty()) json = recipe::read_free_table(io::read_text_file(options.settings), options.settings);
  for (const std::string& argument : options.overrides) {
    const size_t equals = argument.find('=');
    if (equals == std::string::npos) throw BadInput("--set {}: expected key=value", argument);
    recipe::set_entry(json, std::string_view(argument).substr(0, equals), argument.substr(equals + 1),
                      "--set " + argument);
  }
  return json;
}

/// What the ids of a group have in common: "<prompt>/<sample>@<place in the step>" without the sample.
std::string group_of(const std::string& id) {
  const size_t slash = id.rfind('/'), place = id.rfind('@');
  if (slash == std::string::npos) return id;
  return id.substr(0, slash) + (place != std::string::npos && place > slash ? id.substr(place) : "");
}

/// The samples of a file, grouped by their ids.
std::vector<data::Sample> read(const std::string& path) {
  const fs::path given(path);
  const bool is_file = given.filename() == monitor::kSamplesFile;
  if (!is_file && !fs::is_directory(given)) throw BadInput("{}: expected a samples.jsonl or its folder", path);
  std::vector<data::Sample> samples;
  std::map<std::string, int64_t> groups;
  for (monitor::SampleRow& row : monitor::read_samples(is_file ? given.parent_path() : given)) {
    data::Sample& sample = samples.emplace_back(std::move(row.sample));
    sample.group = groups.emplace(group_of(sample.id), static_cast<int64_t>(groups.size())).first->second;
  }
  if (samples.empty()) throw BadInput("{}: holds no sample", path);
  return samples;
}

/// The one reward of --plugin, under its file's name.
reward::RewardConfig plugin_config(const Options& options) {
  reward::TermConfig term;
  term.kind = reward::RewardKind::plugin;
  term.name = fs::path(options.plugin.path).stem().string();
  term.plugin = options.plugin;
  term.plugin.isolate = *enum_value<reward::Isolation>(options.isolate);
  term.plugin.settings = settings_of(options);
  return {.terms = {term}};
}

/// The terms of --recipe. What they cannot judge is told, and stops nothing.
reward::RewardConfig recipe_config(const Options& options) {
  reward::RewardConfig config = recipe::parse(options.recipe, options.overrides, recipe::Command::check).reward;
  if (config.terms.empty()) throw BadInput("{}: rewards: missing (list of tables)", options.recipe);
  if (config.on_error == reward::OnError::stop) config.on_error = reward::OnError::drop_sample;
  return config;
}

/// What one number of a reward is called, and what it was for the samples that have it. `part`: a named dimension;
/// empty: the score itself.
struct Column {
  std::string name;
  std::vector<double> values;
};

Column column(const reward::ScoreTable& table, size_t k, const std::string& part, const std::string& name) {
  Column out{.name = name, .values = {}};
  for (const auto& row : table.scores) {
    const auto found = row[k].parts.find(part);
    if (part.empty() ? row[k].value.has_value() : found != row[k].parts.end()) {
      out.values.push_back(part.empty() ? *row[k].value : found->second);
    }
  }
  return out;
}

/// A plugin's dimensions, of which the first is the score.
std::vector<Column> columns_of_plugin(const reward::ScoreTable& table, const std::vector<std::string>& dimensions) {
  std::vector<Column> columns;
  for (const std::string& name : dimensions) columns.push_back(column(table, 0, columns.empty() ? "" : name, name));
  return columns;
}

/// Every term's score, and under term_part, as in metrics.jsonl, what it consists of.
std::vector<Column> columns_of_terms(const reward::ScoreTable& table) {
  std::vector<Column> columns;
  for (size_t k = 0; k < table.terms.size(); ++k) {
    std::set<std::string> parts;
    for (const auto& row : table.scores) {
      for (const auto& [name, value] : row[k].parts) parts.insert(name);
    }
    columns.push_back(column(table, k, "", table.terms[k]));
    for (const std::string& part : parts) columns.push_back(column(table, k, part, table.terms[k] + "_" + part));
  }
  return columns;
}

Json statistics_json(const Statistics& all) {
  Json json = {{"count", all.count}};
  if (all.count > 0) json.update({{"mean", all.mean}, {"spread", all.spread}, {"min", all.min}, {"max", all.max}});
  return json;
}

std::string statistics_line(const std::string& name, const Statistics& all) {
  if (all.count == 0) return fmt::format("{:<24} {:>8}\n", name, 0);
  return fmt::format("{:<24} {:>8} {:>12.6g} {:>12.6g} {:>12.6g} {:>12.6g}\n", name, all.count, all.mean, all.spread,
                     all.min, all.max);
}

Json json_of(const reward::Score& score) {
  Json row = {{"score", score.value ? Json(*score.value) : Json(nullptr)}};
  if (!score.value) row["reason"] = score.reason;
  if (!score.parts.empty()) row["parts"] = score.parts;
  if (!score.missing.empty()) row["missing"] = score.missing;
  if (!score.notes.empty()) row["notes"] = score.notes;
  return row;
}

/// One row a sample: a plugin's score with what belongs to it, or those of a recipe's terms by name.
Json rows_of(const std::vector<data::Sample>& samples, const reward::ScoreTable& table, bool of_plugin) {
  Json rows = Json::array();
  for (size_t n = 0; n < samples.size(); ++n) {
    Json row = {{"id", samples[n].id}};
    if (of_plugin) {
      row.update(json_of(table.scores[n][0]));
    } else {
      for (size_t k = 0; k < table.terms.size(); ++k) row["rewards"][table.terms[k]] = json_of(table.scores[n][k]);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

int run_reward(const Options& options) {
  const bool of_plugin = options.recipe.empty();
  if (of_plugin && options.plugin.path.empty()) {
    throw BadInput("without --recipe, --plugin is required; see `unigrpo reward --help`");
  }
  const reward::RewardConfig config = of_plugin ? plugin_config(options) : recipe_config(options);
  const std::vector<data::Sample> samples = read(options.samples);
  const StopToken stop = signals::install();
  Stopwatch watch;
  reward::Rewarder rewarder = make_rewarder(config, stop);
  const double start_s = watch.restart();
  const reward::ScoreTable table = rewarder.score(samples);
  if (stop.requested()) throw Interrupted(std::string(stop.signal()) + ": not all samples were judged");
  const double seconds_per_sample = watch.seconds() / static_cast<double>(samples.size());

  const auto columns = of_plugin ? columns_of_plugin(table, rewarder.dimensions(0)) : columns_of_terms(table);
  Json dimensions = Json::object();
  std::string text = fmt::format("{:<24} {:>8} {:>12} {:>12} {:>12} {:>12}\n", of_plugin ? "dimension" : "reward",
                                 "scored", "mean", "spread", "min", "max");
  for (const Column& each : columns) {
    const Statistics all = statistics_of(each.values);
    dimensions[each.name] = statistics_json(all);
    text += statistics_line(each.name, all);
  }
  const auto has_value = [](const reward::Score& score) { return score.value.has_value(); };
  const auto num_scored =
      std::ranges::count_if(table.scores, [&](const auto& row) { return std::ranges::all_of(row, has_value); });
  const bool any_scored =
      std::ranges::any_of(table.scores, [&](const auto& row) { return std::ranges::any_of(row, has_value); });
  std::printf("%s%td of %zu samples scored, %.3f ms a sample, %.0f ms to start\n", text.c_str(), num_scored,
              samples.size(), seconds_per_sample * 1e3, start_s * 1e3);
  if (!options.json.empty()) {
    Json all = of_plugin ? Json{{"plugin", options.plugin.path},
                                {"sha256", sha256_of_file(options.plugin.path)},
                                {"samples", options.samples},
                                {"settings", Json::parse(config.terms[0].plugin.settings)}}
                         : Json{{"recipe", options.recipe}, {"samples", options.samples}};
    all.update({{of_plugin ? "dimensions" : "rewards", dimensions},
                {"seconds_per_sample", seconds_per_sample},
                {"start_seconds", start_s},
                {"scores", rows_of(samples, table, of_plugin)}});
    io::write_file_atomic(options.json, all.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  }
  return static_cast<int>(any_scored ? ExitCode::done : ExitCode::failed);
}

}  // namespace

Run declare_reward(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  auto* plugin = app.add_option("--plugin", options->plugin.path, "Shared library, or program that is its worker");
  app.add_option("--recipe", options->recipe,
                 "Instead of --plugin: all [[rewards]] of this recipe, whatever their kind")
      ->excludes(plugin);
  app.add_option("--samples", options->samples, "samples.jsonl, or its folder")->required();
  app.add_option("--settings", options->settings, "TOML file: the plugin's own keys")->needs(plugin);
  app.add_option("--set", options->overrides, "One of the plugin's own keys, or of the recipe's: --set limit=200")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  app.add_option("--isolate", options->isolate, "Where the plugin runs")
      ->check(CLI::IsMember({"process", "none"}))
      ->capture_default_str();
  app.add_option("--timeout", options->plugin.timeout_s, "Seconds that a call of the plugin may take")
      ->check(CLI::Range(0.001, 86400.0))
      ->capture_default_str();
  app.add_option("--json", options->json, "Write scores, reasons and notes to this file");
  return [options] { return run_reward(*options); };
}

}  // namespace unigrpo::cli

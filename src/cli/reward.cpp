#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/enum_names.h"
#include "base/error.h"
#include "cli/commands.h"
#include "io/atomic_file.h"
#include "monitor/samples_file.h"
#include "recipe/free_table.h"
#include "reward/plugin/plugin_reward.h"

namespace unigrpo::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Options {
  reward::PluginConfig plugin;
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
  const bool is_file = given.filename() == "samples.jsonl";
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

/// What one dimension gave, in the samples' order.
std::vector<double> values_of(const std::vector<reward::Score>& scores, size_t dimension, const std::string& name) {
  std::vector<double> values;
  for (const reward::Score& score : scores) {
    if (dimension == 0) {
      if (score.value) values.push_back(*score.value);
    } else if (const auto part = score.parts.find(name); part != score.parts.end()) {
      values.push_back(part->second);
    }
  }
  return values;
}

Json json_of(const data::Sample& sample, const reward::Score& score) {
  Json row = {{"id", sample.id}, {"score", score.value ? Json(*score.value) : Json(nullptr)}};
  if (!score.value) row["reason"] = score.reason;
  if (!score.parts.empty()) row["parts"] = score.parts;
  if (!score.missing.empty()) row["missing"] = score.missing;
  if (!score.notes.empty()) row["notes"] = score.notes;
  return row;
}

int run_reward(Options options) {
  options.plugin.isolate = *enum_value<reward::Isolation>(options.isolate);
  options.plugin.settings = settings_of(options);
  const std::vector<data::Sample> samples = read(options.samples);
  Stopwatch watch;
  reward::PluginReward plugin(fs::path(options.plugin.path).stem().string(), options.plugin);
  const double start_s = watch.restart();
  const std::vector<reward::Score> scores = plugin.score(samples);
  const double seconds_per_sample = watch.seconds() / static_cast<double>(samples.size());

  Json dimensions = Json::object();
  std::string table =
      fmt::format("{:<24} {:>8} {:>12} {:>12} {:>12} {:>12}\n", "dimension", "scored", "mean", "spread", "min", "max");
  for (size_t k = 0; k < plugin.description().dimensions.size(); ++k) {
    const std::string& name = plugin.description().dimensions[k].name;
    const Statistics all = statistics_of(values_of(scores, k, name));
    dimensions[name] = {{"count", all.count}};
    if (all.count == 0) {
      table += fmt::format("{:<24} {:>8}\n", name, 0);
      continue;
    }
    dimensions[name].update({{"mean", all.mean}, {"spread", all.spread}, {"min", all.min}, {"max", all.max}});
    table += fmt::format("{:<24} {:>8} {:>12.6g} {:>12.6g} {:>12.6g} {:>12.6g}\n", name, all.count, all.mean,
                         all.spread, all.min, all.max);
  }
  const auto num_scored =
      std::ranges::count_if(scores, [](const reward::Score& score) { return score.value.has_value(); });
  std::printf("%s%td of %zu samples scored, %.3f ms a sample, %.0f ms to start\n", table.c_str(), num_scored,
              samples.size(), seconds_per_sample * 1e3, start_s * 1e3);
  if (!options.json.empty()) {
    Json rows = Json::array();
    for (size_t n = 0; n < samples.size(); ++n) rows.push_back(json_of(samples[n], scores[n]));
    const Json all = {{"plugin", options.plugin.path}, {"sha256", plugin.sha256()},
                      {"samples", options.samples},    {"settings", Json::parse(options.plugin.settings)},
                      {"dimensions", dimensions},      {"seconds_per_sample", seconds_per_sample},
                      {"start_seconds", start_s},      {"scores", rows}};
    io::write_file_atomic(options.json, all.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  }
  return static_cast<int>(num_scored > 0 ? ExitCode::done : ExitCode::failed);
}

}  // namespace

Run declare_reward(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("--plugin", options->plugin.path, "Shared library, or program that is its worker")->required();
  app.add_option("--samples", options->samples, "samples.jsonl, or its folder")->required();
  app.add_option("--settings", options->settings, "TOML file: the plugin's own keys");
  app.add_option("--set", options->overrides, "One of the plugin's own keys: --set limit=200")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  app.add_option("--isolate", options->isolate, "Where it runs")
      ->check(CLI::IsMember({"process", "none"}))
      ->capture_default_str();
  app.add_option("--timeout", options->plugin.timeout_s, "Seconds that a call may take")
      ->check(CLI::Range(0.001, 86400.0))
      ->capture_default_str();
  app.add_option("--json", options->json, "Write scores, reasons and notes to this file");
  return [options] { return run_reward(*options); };
}

}  // namespace unigrpo::cli

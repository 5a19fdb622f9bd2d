#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "cli/commands.h"
#include "ingest/curriculum.h"

namespace unigrpo::cli {
namespace {

struct DrawOptions {
  std::filesystem::path set;
  uint64_t seed = 0;
  int64_t step = 0, count = 1;
};

int run_draw(const DrawOptions& options) {
  const auto path = ingest::manifest_path(options.set, "curriculum");
  const ingest::Draw draw = ingest::draw_rows(ingest::read_manifest(path), options.seed, options.step, options.count);
  for (const nlohmann::json& row : draw.rows) {
    fmt::print("{}\n", nlohmann::json{{"stage", draw.stage}, {"row", row}}.dump());
  }
  return 0;
}

}  // namespace

Run declare_draw(CLI::App& app) {
  const auto options = std::make_shared<DrawOptions>();
  app.add_option("--set", options->set, "Set that `data ingest` has made")->required();
  app.add_option("--step", options->step, "Step of training, from 0")->required()->check(CLI::NonNegativeNumber);
  app.add_option("--count", options->count, "Clips a step")->capture_default_str()->check(CLI::Range(1, 1'000'000));
  app.add_option("--seed", options->seed, "Of the order (default 0)");
  return [options] { return run_draw(*options); };
}

}  // namespace unigrpo::cli

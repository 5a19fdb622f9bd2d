#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "monitor/monitor.h"

namespace unigrpo::cli {

Run declare_report(CLI::App& app) {
  const auto run_dir = std::make_shared<std::string>();
  app.add_option("run_dir", *run_dir, "Run folder, e.g. runs/shapes_demo")->required();
  return [run_dir] {
    monitor::write_report(*run_dir);
    fmt::print("{}\n", (std::filesystem::path(*run_dir) / "report.html").string());
    return 0;
  };
}

}  // namespace unigrpo::cli

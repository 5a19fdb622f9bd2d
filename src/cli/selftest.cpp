#include <iostream>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/selftest_vectors.h"

namespace unigrpo::cli {

Run declare_selftest(CLI::App& app) {
  const auto vectors = std::make_shared<std::string>();
  app.add_option("--vectors", *vectors, "File of numeric cases (tests/data/README.md tells the format)")->required();
  return [vectors] { return run_selftest_vectors(*vectors, std::cout); };
}

}  // namespace unigrpo::cli

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/selftest_bagel.h"
#include "cli/selftest_vectors.h"

namespace unigrpo::cli {

Run declare_selftest(CLI::App& app) {
  const auto vectors = std::make_shared<std::string>(), bagel = std::make_shared<std::string>();
  auto* source = app.add_option_group("source", "What to compare with");
  source->add_option("--vectors", *vectors, "File of numeric cases (tests/data/README.md tells the format)");
  source->add_option("--bagel", *bagel, "BAGEL folder with golden.json and golden.safetensors of the official code");
  source->require_option(1);
  return [vectors, bagel] {
    return vectors->empty() ? run_selftest_bagel(*bagel, std::cout) : run_selftest_vectors(*vectors, std::cout);
  };
}

}  // namespace unigrpo::cli

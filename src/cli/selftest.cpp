#include <iostream>

#include "cli/model_commands.h"
#include "cli/selftest_bagel.h"
#include "cli/selftest_ltx2.h"
#include "cli/selftest_vectors.h"
#include "runtime/runtime.h"

namespace unigrpo::cli {

int run(const SelftestOptions& options) {
  const Runtime runtime = make_runtime({.device = options.device, .device_key = "--device"});
  if (!options.ltx2.empty()) return run_selftest_ltx2(options.ltx2, options.out, std::cout, runtime);
  return options.vectors.empty() ? run_selftest_bagel(options.bagel, std::cout, runtime)
                                 : run_selftest_vectors(options.vectors, std::cout, runtime.device);
}

}  // namespace unigrpo::cli

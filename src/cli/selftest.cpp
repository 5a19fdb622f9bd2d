#include <iostream>

#include "cli/model_commands.h"
#include "cli/selftest_bagel.h"
#include "cli/selftest_vectors.h"

namespace unigrpo::cli {

int run(const SelftestOptions& options) {
  return options.vectors.empty() ? run_selftest_bagel(options.bagel, std::cout)
                                 : run_selftest_vectors(options.vectors, std::cout);
}

}  // namespace unigrpo::cli

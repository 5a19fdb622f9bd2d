#include "runtime/runtime.h"

#include <ATen/Parallel.h>

#include "base/memory.h"

namespace unigrpo {

Runtime make_runtime(const RuntimeOptions& options) {
  keep_freed_memory();
  if (options.threads > 0) at::set_num_threads(static_cast<int>(options.threads));
  return {.stop = options.signals ? signals::install() : StopToken{}, .seed = options.seed, .threads = options.threads};
}

int64_t num_threads(const Runtime& runtime) { return runtime.threads > 0 ? runtime.threads : at::get_num_threads(); }

}  // namespace unigrpo

#include "runtime/runtime.h"

#include <ATen/Parallel.h>

#include "base/memory.h"
#include "tensor/device.h"

namespace unigrpo {

Runtime make_runtime(const RuntimeOptions& options) {
  keep_freed_memory();
  if (options.threads > 0) at::set_num_threads(static_cast<int>(options.threads));
  const c10::Device device = tensor::device_of(options.device, options.device_key);
  if (!device.is_cpu()) tensor::set_precision(options.deterministic);
  return {.device = device,
          .stop = options.signals ? signals::install() : StopToken{},
          .seed = options.seed,
          .threads = options.threads};
}

int64_t num_threads(const Runtime& runtime) { return runtime.threads > 0 ? runtime.threads : at::get_num_threads(); }

}  // namespace unigrpo

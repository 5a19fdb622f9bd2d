#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/signals.h"

namespace unigrpo {

namespace parallel {
class Comm;
struct Groups;
}  // namespace parallel

/// Where this process stands among those of its run.
struct Mesh {
  int64_t rank = 0;
  int64_t world_size = 1;
  int64_t local_rank = 0;               // on this machine
  std::optional<int64_t> restart = {};  // how often a launcher has started the ranks anew; none: by itself
};

/// What a process is, decided once when it starts and then handed down.
struct Runtime {
  c10::Device device = c10::kCPU;  // holds the weights and does the arithmetic
  Mesh mesh = {};
  std::shared_ptr<parallel::Comm> comm = nullptr;            // to the other ranks; null: one process
  std::shared_ptr<const parallel::Groups> groups = nullptr;  // of some of them; null: one process
  StopToken stop = {};  // asked before each decode step, denoising step and micro-batch; a step begun is dropped whole
  uint64_t seed = 0;    // of every random stream
  int64_t threads = 0;  // of an operation, or single-threaded workers (runtime/workers.h); 0: all cores
};

/// Opens the device (tensor/device.h; throws BadInput naming `device_key`), sets the process's threads and keeps freed
/// memory for the next step (base/memory.h); with `signals`, SIGINT, SIGTERM and their like only ask to stop from here
/// on (base/signals.h).
struct RuntimeOptions {
  std::string device = "cpu", device_key = "policy.device";
  uint64_t seed = 0;
  int64_t threads = 0;
  bool deterministic = false;
  bool signals = false;
};
Runtime make_runtime(const RuntimeOptions& options);

/// `runtime.threads`, or how many an operation has.
int64_t num_threads(const Runtime& runtime);

}  // namespace unigrpo

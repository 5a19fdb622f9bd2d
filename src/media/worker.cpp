// unigrpo-media-worker: reads one media file for read_clip.h and ends. Started by it: descriptors 3 (memory), 4 (the
// file), 5 (lifeline). From the first byte that it reads of the file on it can open nothing, connect to nothing and
// write to nothing but that memory.
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>

#include "base/error.h"
#include "base/fault.h"
#include "base/resource_limit.h"
#include "base/shared_memory.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "media/conversation.h"
#include "media/decode.h"

namespace unigrpo::media {
namespace {

/// `memory_bytes` of the worker's own; what is shared is bounded by the file size.
void limit_all([[maybe_unused]] rlim_t memory_bytes, rlim_t cpu_s, rlim_t shared_bytes) {
  limit_resource(RLIMIT_CPU, cpu_s);
  limit_resource(RLIMIT_FSIZE, shared_bytes);
#ifndef __SANITIZE_ADDRESS__  // its shadow counts as data, and its search for leaks opens files
  limit_resource(RLIMIT_DATA, memory_bytes);
  limit_resource(RLIMIT_NOFILE, 0);
#endif
}

Response answer(const Request& request, uint64_t memory_bytes) {
  Response response;
  try {
    fault::point("media.decode");
    response.result = decode(kFileDescriptor, request.name, request.options);
  } catch (const BadInput& error) {
    response.refusal = error.what();
  } catch (const std::bad_alloc&) {
    response.failure = fmt::format("needs more than {} of memory", human_bytes(memory_bytes));
  } catch (const std::exception& error) {
    response.failure = error.what();
  }
  return response;
}

int work(uint64_t memory_bytes, uint64_t cpu_s) {
  SharedMemory memory(kMemoryDescriptor);
  const Request request = read_request(memory.bytes());
  constexpr uint64_t kBeside = uint64_t{16} << 20;  // the answer's text, and rounding
  limit_all(memory_bytes, cpu_s, request.options.max_bytes + kBeside);
  write_response(memory, answer(request, memory_bytes));
  return 0;
}

}  // namespace
}  // namespace unigrpo::media

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: unigrpo-media-worker MEMORY_BYTES CPU_SECONDS   (started by unigrpo)\n");
    return 2;
  }
  const uint64_t memory_bytes = std::strtoull(argv[1], nullptr, 10), cpu_s = std::strtoull(argv[2], nullptr, 10);
  const rlimit no_core = {0, 0};  // nor can a process that was taken over ask for one again
  setrlimit(RLIMIT_CORE, &no_core);
  unigrpo::supervise({.lifeline = unigrpo::media::kWorkerLifeline, .only_child = {unigrpo::media::kMemoryDescriptor}},
                     [&] {
                       try {
                         return unigrpo::media::work(memory_bytes, cpu_s);
                       } catch (const std::exception& error) {
                         std::fprintf(stderr, "%s\n", error.what());
                         return 1;
                       }
                     });
}

#include "media/read_clip.h"

#include <unistd.h>

#include <array>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/shared_memory.h"
#include "base/subprocess.h"
#include "base/text.h"
#include "io/mapped_file.h"
#include "media/conversation.h"

namespace unigrpo::media {
namespace {

namespace fs = std::filesystem;

fs::path worker_program() {
  const fs::path program = program_folder() / "unigrpo-media-worker";
  if (!fs::exists(program)) throw RuntimeFailure("{}: not there; media files are read in it", program.string());
  return program;
}

void check(const ReadOptions& options) {
  const bool fps = options.fps.num >= 0 && options.fps.den > 0;
  const bool times = options.start_s >= 0 && options.max_seconds >= 0 && options.min_seconds >= 0;  // no NaN passes
  if (!fps || !times || options.sample_rate < 0 || options.max_side < 0) {
    throw RuntimeFailure("read_clip: a rate, size or time below 0");
  }
}

/// What the worker printed, the start of it; a sanitizer's report may be long.
std::string printed(int descriptor) {
  std::array<char, 400> text{};
  const ssize_t size = read(descriptor, text.data(), text.size());
  return size <= 0 ? "" : " and printed " + in_quotes({text.data(), static_cast<size_t>(size)}, text.size());
}

}  // namespace

ReadResult read_clip(const fs::path& path, const ReadOptions& options, const ReadLimits& limits) {
  check(options);
  const io::InputFile file(path);
  SharedMemory memory;
  write_request(memory, {.name = path.string(), .options = options});
  Subprocess process(
      {.command = {worker_program().string(), std::to_string(limits.memory_bytes), std::to_string(limits.cpu_s)},
       .descriptors = {memory.descriptor(), file.descriptor()}});
  if (!process.wait(limits.wall_s)) {
    process.kill();
    throw BadInput("{}: reading it took longer than {} s and was stopped", path.string(), limits.wall_s);
  }
  const std::string& ending = process.ending();
  if (ending == "was killed by SIGXCPU") {
    throw BadInput("{}: reading it took more than {} s of processor time and was stopped", path.string(), limits.cpu_s);
  }
  if (ending != "exited with code 0") {
    throw BadInput("{}: the process that read it {}{}", path.string(), ending, printed(process.output()));
  }
  memory.refresh();
  Response response;
  try {
    response = read_response(memory.bytes());
  } catch (const BadInput& error) {
    throw BadInput("{}: the process that read it went wrong: {}", path.string(), error.what());
  }
  if (!response.refusal.empty()) throw BadInput("{}", response.refusal);
  if (!response.result) throw BadInput("{}: {}", path.string(), response.failure);
  return *std::move(response.result);
}

}  // namespace unigrpo::media

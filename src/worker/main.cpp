// unigrpo-reward-worker: loads one reward plugin, or runs one program, and answers the trainer until one of them is
// gone (docs/REWARD_PROTOCOL.md). Started by the trainer: descriptors 3 (control), 4 (shared memory), 5 (the
// plugin's file as it was when the run began), 6 (lifeline).
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/resource_limit.h"
#include "base/shared_memory.h"
#include "base/subprocess.h"
#include "reward/plugin/library.h"
#include "reward/plugin/protocol.h"

namespace unigrpo::reward::plugin {
namespace {

constexpr int kLifelineDescriptor = kCopyDescriptor + 1;

/// Reads or writes a whole frame; false at the end of the conversation.
bool transfer(Frame& frame, ssize_t (*move)(int, void*, size_t)) {
  auto* bytes = reinterpret_cast<char*>(&frame);
  for (size_t done = 0; done < sizeof frame;) {
    const ssize_t count = move(kControlDescriptor, bytes + done, sizeof frame - done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    done += static_cast<size_t>(count);
  }
  return true;
}

/// Answers requests over the control socket until it closes.
class Server {
 public:
  int run() {
    Frame request;
    while (transfer(request, read)) {
      memory_.refresh();
      const std::string_view message = message_of(request, memory_.bytes());
      answer_offset_ = aligned(request.offset + request.num_bytes);
      sequence_ = request.sequence;
      const bool sent = request.kind == FrameKind::configure ? configure(message) : score(message);
      if (!sent) return 1;
    }
    return 0;
  }

 private:
  bool configure(std::string_view message) {
    const Configuration configuration = decode_configuration(message);
    try {
      library_ = std::make_unique<Library>(configuration.path, configuration.settings_json, kCopyDescriptor);
    } catch (const BadInput& error) {
      return send(FrameKind::failed, encode_failure(error.what()));
    }
    return send(FrameKind::ready, encode_description(library_->description()));
  }

  bool score(std::string_view message) {
    const std::vector<SampleView> samples = decode_request(message, memory_.bytes());
    const Answer answer = library_->score(samples);
    if (!answer.succeeded) return send(FrameKind::failed, encode_failure(answer.error));
    return send(FrameKind::scores, encode_answer(answer, library_->description()));
  }

  bool send(FrameKind kind, std::string_view message) {
    const std::span<std::byte> room = memory_.bytes().subspan(answer_offset_);
    if (message.size() > room.size()) return send(FrameKind::failed, encode_failure("the answer is too long"));
    std::memcpy(room.data(), message.data(), message.size());
    Frame frame = {kind, sequence_, answer_offset_, message.size()};
    return transfer(frame, [](int descriptor, void* bytes, size_t size) { return write(descriptor, bytes, size); });
  }

  SharedMemory memory_{kMemoryDescriptor};
  std::unique_ptr<Library> library_;
  size_t answer_offset_ = 0;
  uint32_t sequence_ = 0;
};

int serve() {
  fcntl(kControlDescriptor, F_SETFD, FD_CLOEXEC);
  fcntl(kMemoryDescriptor, F_SETFD, FD_CLOEXEC);
  fcntl(kCopyDescriptor, F_SETFD, FD_CLOEXEC);
  try {
    return Server().run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "unigrpo-reward-worker: %s\n", error.what());
    return 1;
  }
}

int become(const char* program) {
  // The interpreter of a script that is the copy reads it through that descriptor; other programs need not know of it.
  if (program != copy_path()) fcntl(kCopyDescriptor, F_SETFD, FD_CLOEXEC);
  execl(program, program, static_cast<char*>(nullptr));
  std::fprintf(stderr, "unigrpo-reward-worker: %s: %s\n", program, std::strerror(errno));
  return 127;
}

/// Memory beyond `bytes` is refused here, and should the machine run out all the same, this process goes first.
void limit_memory([[maybe_unused]] uint64_t bytes) {
#ifndef __SANITIZE_ADDRESS__  // its shadow counts as data
  limit_resource(RLIMIT_DATA, bytes);
#endif
  if (std::FILE* file = std::fopen("/proc/self/oom_score_adj", "w")) {
    std::fputs("1000", file);
    std::fclose(file);
  }
}

}  // namespace
}  // namespace unigrpo::reward::plugin

int main(int argc, char** argv) {
  using namespace unigrpo::reward::plugin;
  uint64_t memory_bytes = 0;
  const std::string_view number = argc > 1 ? argv[1] : "";
  const auto parsed = std::from_chars(number.data(), number.data() + number.size(), memory_bytes);
  if (argc < 2 || argc > 3 || number.empty() || parsed.ptr != number.data() + number.size()) {
    std::fprintf(stderr, "usage: unigrpo-reward-worker MEMORY_BYTES [PROGRAM]   (started by unigrpo)\n");
    return 2;
  }
  unigrpo::limit_resource(RLIMIT_CORE, 0);
  unigrpo::supervise({.lifeline = kLifelineDescriptor, .only_child = {kControlDescriptor, kMemoryDescriptor}}, [&] {
    limit_memory(memory_bytes);
    return argc == 3 ? become(argv[2]) : serve();
  });
}

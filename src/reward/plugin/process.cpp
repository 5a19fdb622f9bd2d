#include "reward/plugin/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/text.h"

namespace unigrpo::reward::plugin {
namespace {

namespace fs = std::filesystem;

constexpr double kGrace_s = 2;        // for a process whose end is known to be near
constexpr double kStopGrace_s = 0.1;  // the same while the run is asked to stop
constexpr double kPoll_s = 0.05;      // how soon that is noticed

fs::path worker_program() {
  const fs::path program = program_folder() / "unigrpo-reward-worker";
  if (!fs::exists(program)) throw RuntimeFailure("{}: not there; a plugin needs it to run in", program.string());
  return program;
}

bool readable(int descriptor) {
  pollfd event = {descriptor, POLLIN, 0};
  return poll(&event, 1, 0) > 0;
}

/// A copy of what a frame points to: the worker may write on.
std::string message_text(const Frame& frame, std::span<const std::byte> memory) {
  if (frame.num_bytes > kMaxAnswerBytes) throw BadInput("answered with {}", human_bytes(frame.num_bytes));
  return std::string(message_of(frame, memory));
}

int milliseconds_left(double timeout_s, const Stopwatch& watch) {
  return static_cast<int>(std::ceil(std::clamp(timeout_s - watch.seconds(), 0.0, 1e5) * 1e3));
}

}  // namespace

bool OutputLog::take(int descriptor) {
  std::array<char, 1 << 16> block;
  const ssize_t size = read(descriptor, block.data(), block.size());
  if (size <= 0) return size < 0 && (errno == EAGAIN || errno == EINTR);
  for (const char c : std::string_view(block.data(), static_cast<size_t>(size))) {
    if (budget_ <= 0) return true;
    if (--budget_ == 0) {
      put_line();
      log::warn(fmt::format("reward '{}' prints more than {} in one call; the rest is left out", reward_,
                            human_bytes(kBytesPerCall)));
    } else if (c == '\n') {
      put_line();
    } else {
      line_ += c;
    }
  }
  return true;
}

void OutputLog::finish(int descriptor) {
  while (readable(descriptor) && take(descriptor)) {
  }
  put_line();
}

void OutputLog::put_line() {
  if (!line_.empty()) log::info(fmt::format("reward '{}' prints: {}", reward_, in_quotes(line_, 2000)));
  line_.clear();
}

Worker::Worker(WorkerOptions options) : options_(std::move(options)), output_(options_.reward) {
  description_ = start();
}

Worker::~Worker() {
  if (!process_) return;
  shutdown(control_, SHUT_RDWR);
  const double grace_s = options_.stop.requested() ? kStopGrace_s : kGrace_s;
  const bool ended = process_->wait(grace_s);
  if (!ended) process_->kill();
  output_.new_call();
  output_.finish(process_->output());
  close_control();
  if (!ended) {
    log::warn(fmt::format("reward '{}': the worker did not end within {} s and was killed", options_.reward, grace_s));
  } else if (process_->ending() != "exited with code 0") {
    log::warn(fmt::format("reward '{}': the worker {} when it was to end", options_.reward, process_->ending()));
  }
}

/// What the worker process is to execute; empty: nothing, a library is loaded, from the copy. A program is executed
/// from its own place as long as it is what it was: it may look for what lies beside it.
std::string Worker::program() {
  const std::string path = options_.path.string();
  std::error_code error;
  const bool unchanged = fs::is_regular_file(options_.path, error) && sha256_of_file(options_.path) == options_.sha256;
  if (!unchanged && !std::exchange(change_told_, true)) {
    log::warn(
        fmt::format("reward '{}': {} has changed or is gone; the file that the run began with (SHA-256 {}) is used",
                    options_.reward, path, options_.sha256));
  }
  if (!options_.is_program) return "";
  return unchanged ? path : copy_path();
}

Description Worker::start() {
  fault::point("plugin.spawn");
  const std::string path = options_.path.string();
  std::array<int, 2> control{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, control.data()) != 0) {
    throw RuntimeFailure("cannot make a pair of sockets: {}", std::strerror(errno));
  }
  control_ = control[0];
  std::vector<std::string> command = {worker_program().string(), std::to_string(options_.memory_bytes)};
  if (std::string executed = program(); !executed.empty()) command.push_back(std::move(executed));
  try {
    process_ = std::make_unique<Subprocess>(
        Subprocess::Options{.command = command, .descriptors = {control[1], memory_.descriptor(), options_.copy}});
  } catch (...) {
    close(control[1]);
    close_control();
    throw;
  }
  close(control[1]);

  const std::string message = encode_configuration({.path = path, .settings_json = options_.settings_json});
  memory_.reserve(aligned(message.size()) + answer_room(1));
  std::memcpy(memory_.bytes().data(), message.data(), message.size());
  const Reply reply =
      exchange({.kind = FrameKind::configure, .offset = 0, .num_bytes = message.size()}, options_.start_timeout_s);
  if (!reply.frame) throw BadInput("{}: the worker {} before it was ready", path, reply.failure);
  try {
    const std::string answer = message_text(*reply.frame, memory_.bytes());
    if (reply.frame->kind == FrameKind::failed) throw BadInput("{}", decode_failure(answer));
    if (reply.frame->kind != FrameKind::ready) throw BadInput("it answers with scores before it is ready");
    return decode_description(answer);
  } catch (const BadInput& error) {
    killed("");
    const std::string what = error.what();
    if (what.starts_with(path)) throw;
    throw BadInput("{}: {}", path, what);
  }
}

Answer Worker::score(std::span<const SampleView> samples) {
  replace_if_dead();
  if (!process_) {
    try {
      const Description again = start();
      if (encode_description(again) != encode_description(description_)) {
        killed("");
        return failed_call("the worker describes itself in another way than before");
      }
    } catch (const std::runtime_error& error) {
      return failed_call(fmt::format("the worker could not be started again: {}", error.what()));
    }
  }
  const RequestPlan plan = plan_request(samples);
  memory_.reserve(plan.num_bytes);
  write_request(plan, samples, memory_.bytes());
  const Reply reply = exchange({.kind = FrameKind::score, .offset = plan.json_offset, .num_bytes = plan.json.size()},
                               options_.timeout_s);
  if (!reply.frame) return failed_call("the worker " + reply.failure);
  try {
    const std::string answer = message_text(*reply.frame, memory_.bytes());
    if (reply.frame->kind == FrameKind::failed) return failed_call(decode_failure(answer));
    if (reply.frame->kind != FrameKind::scores) {
      throw BadInput("answered with a frame of kind {}", static_cast<uint32_t>(reply.frame->kind));
    }
    return decode_answer(answer, description_, samples.size());
  } catch (const BadInput& error) {
    return failed_call(fmt::format("the worker {}", killed(error.what())));
  }
}

/// A process that ended, or spoke, while it was asked nothing: no sample is to blame.
void Worker::replace_if_dead() {
  if (!process_ || !(readable(control_) || readable(process_->lifeline()))) return;
  log::warn(fmt::format("reward '{}': the worker {} between two calls; it is started again", options_.reward, lost()));
}

Worker::Reply Worker::exchange(Frame request, double timeout_s) {
  request.sequence = ++sequence_;
  output_.new_call();
  if (send(control_, &request, sizeof request, MSG_NOSIGNAL) != sizeof request) {
    return {.frame = std::nullopt, .failure = lost()};
  }
  Reply reply = receive(sequence_, timeout_s);
  if (process_) output_.finish(process_->output());
  return reply;
}

Worker::Reply Worker::receive(uint32_t sequence, double timeout_s) {
  const Stopwatch watch;
  Frame frame;
  size_t num_read = 0;
  std::array<pollfd, 3> events = {
      {{control_, POLLIN, 0}, {process_->output(), POLLIN, 0}, {process_->lifeline(), POLLIN, 0}}};
  while (watch.seconds() < timeout_s) {
    if (options_.stop.requested()) {
      return {.frame = std::nullopt, .failure = killed(fmt::format("was killed after {}", options_.stop.signal()))};
    }
    const double soonest_s = std::min(timeout_s, watch.seconds() + kPoll_s);
    if (poll(events.data(), events.size(), milliseconds_left(soonest_s, watch)) < 0) continue;  // a signal to us
    if (events[1].revents != 0 && !output_.take(process_->output())) events[1].fd = -1;
    if (events[0].revents == 0 && events[2].revents != 0) return {.frame = std::nullopt, .failure = lost()};
    if (events[0].revents == 0) continue;
    const ssize_t size =
        recv(control_, reinterpret_cast<char*>(&frame) + num_read, sizeof frame - num_read, MSG_DONTWAIT);
    if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) return {.frame = std::nullopt, .failure = lost()};
    if (size < 0) continue;
    num_read += static_cast<size_t>(size);
    if (num_read < sizeof frame) continue;
    if (frame.sequence != sequence) {
      return {.frame = std::nullopt,
              .failure = killed(fmt::format("answered request {} instead of {}", frame.sequence, sequence))};
    }
    return {.frame = frame, .failure = ""};
  }
  return {.frame = std::nullopt, .failure = killed(fmt::format("took longer than {} s and was killed", timeout_s))};
}

/// How the process came to its end, after the conversation has broken off.
std::string Worker::lost() {
  if (!process_->wait(kGrace_s)) return killed("closed its control channel and was killed");
  const std::string ending = process_->ending();
  return killed(ending);
}

/// Ends the process, whatever it is at; gives `why` back.
std::string Worker::killed(std::string why) {
  process_->kill();
  output_.finish(process_->output());
  process_.reset();
  close_control();
  return why;
}

void Worker::close_control() {
  if (control_ >= 0) close(control_);
  control_ = -1;
}

}  // namespace unigrpo::reward::plugin

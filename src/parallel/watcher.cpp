#include "parallel/watcher.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace unigrpo::parallel {

/// What comes over one socket. Lines: "hello TOKEN RANK", "beat CALLS", "late CALLS", "broken", "failed LINE", "bye"
/// and, from rank 0, "verdict KIND RANK TEXT".
struct Watcher::Connection {
  int fd = -1;
  int64_t rank = -1;      // until it has said hello
  std::string text = {};  // what is no whole line yet
  uint64_t calls = 0;
  bool left = false;  // said goodbye
  Clock::time_point heard = Clock::now();
};

namespace {

constexpr size_t kMostLine = 1 << 14;
constexpr double kHelloWithin_s = 10;
constexpr int kMostStrangers = 128;

double seconds_since(std::chrono::steady_clock::time_point then) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - then).count();
}

std::chrono::steady_clock::duration duration_of(double seconds) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
}

/// The first word, cut off from `text`.
std::string_view take_word(std::string_view& text) {
  const size_t end = text.find(' ');
  const std::string_view word = text.substr(0, end);
  text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  return word;
}

int64_t number_of(std::string_view word) {
  int64_t value = -1;
  std::from_chars(word.data(), word.data() + word.size(), value);
  return value;
}

/// A line that cannot be sent is one whose reader is gone, which its connection's end tells.
void send_line(int fd, const std::string& line) {
  const std::string text = line.substr(0, kMostLine - 2) + "\n";
  [[maybe_unused]] const ssize_t sent = send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

WatchSocket listen_for_watchers(bool loopback) {
  WatchSocket made{.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(loopback ? INADDR_LOOPBACK : INADDR_ANY);
  socklen_t length = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (made.fd < 0 || bind(made.fd, any, length) != 0 || listen(made.fd, SOMAXCONN) != 0 ||
      getsockname(made.fd, any, &length) != 0) {
    const int error = errno;
    if (made.fd >= 0) close(made.fd);
    throw RuntimeFailure("cannot listen for the other ranks: {}", std::strerror(error));
  }
  made.port = ntohs(address.sin_port);
  return made;
}

WatchSocket connect_to_watcher(const std::string& host, uint16_t port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found)) {
    throw RuntimeFailure("{}: {}", host, gai_strerror(error));
  }
  WatchSocket made{.port = port};
  int error = 0;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    const int fd = socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, each->ai_addr, each->ai_addrlen) == 0) {
      made.fd = fd;
      break;
    }
    error = errno;
    if (fd >= 0) close(fd);
  }
  freeaddrinfo(found);
  if (made.fd < 0) throw RuntimeFailure("cannot connect to rank 0 at {}:{}: {}", host, port, std::strerror(error));
  return made;
}

Watcher::Watcher(Options options, WatchSocket socket)
    : options_(std::move(options)), socket_(socket), parent_(getppid()), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (wake_ < 0) throw RuntimeFailure("cannot make an event: {}", std::strerror(errno));
  if (!is_hub()) {
    peers_.push_back({.fd = socket_.fd, .rank = 0});
    send_line(socket_.fd, fmt::format("hello {} {}", options_.token, options_.rank));
  }
  thread_ = std::thread([this] { run(); });
}

Watcher::~Watcher() {
  {
    const std::lock_guard lock(mutex_);
    own_lines_.emplace_back("bye");
    ends_by_itself_ = leaving_ = true;
  }
  wake();
  thread_.join();
  for (const Connection& peer : peers_) close(peer.fd);
  if (is_hub()) close(socket_.fd);
  close(wake_);
}

void Watcher::wake() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof one);
}

std::optional<Verdict> Watcher::why(bool late, double patience_s, int64_t waited_for) {
  std::unique_lock lock(mutex_);
  ends_by_itself_ = true;
  own_lines_.push_back(late ? fmt::format("late {} {}", calls_.load(), waited_for) : "broken");
  wake();
  changed_.wait_for(lock, duration_of(patience_s), [this] { return verdict_.has_value(); });
  return verdict_;
}

void Watcher::ends_by_itself() {
  const std::lock_guard lock(mutex_);
  ends_by_itself_ = true;
}

void Watcher::failed(const std::string& line) {
  constexpr double kPatience_s = 1;
  std::unique_lock lock(mutex_);
  ends_by_itself_ = true;
  own_lines_.push_back("failed " + line);
  wake();
  changed_.wait_for(lock, duration_of(kPatience_s), [this] { return own_lines_.empty(); });
}

void Watcher::run() {
  next_beat_ = Clock::now();
  for (;;) {
    say_own();
    {
      const std::lock_guard lock(mutex_);
      if (leaving_ && own_lines_.empty()) return;
    }
    wait_for_events();
    look_around();
  }
}

/// To rank 0, or from it to all.
void Watcher::say(const std::string& line) {
  for (const Connection& peer : peers_) {
    if (peer.rank >= 0) send_line(peer.fd, line);
  }
}

void Watcher::say_own() {
  std::vector<std::string> lines;
  {
    const std::lock_guard lock(mutex_);
    lines = own_lines_;
  }
  if (Clock::now() >= next_beat_) {
    next_beat_ = Clock::now() + duration_of(options_.beat_s);
    lines.insert(lines.begin(), fmt::format("beat {}", calls_.load()));
  }
  Connection self{.rank = options_.rank};
  for (const std::string& line : lines) {
    const bool to_others = line == "bye" || line.starts_with("beat");
    if (!is_hub() || to_others) say(line);
    if (line == "broken" || (is_hub() && !to_others)) on_line(self, line);
  }
  const std::lock_guard lock(mutex_);
  std::erase_if(own_lines_, [&](const std::string& line) { return std::ranges::find(lines, line) != lines.end(); });
  changed_.notify_all();
}

void Watcher::wait_for_events() {
  std::vector<pollfd> events = {{wake_, POLLIN, 0}, {is_hub() ? socket_.fd : -1, POLLIN, 0}};
  for (const Connection& peer : peers_) events.push_back({peer.fd, POLLIN, 0});
  const auto until_beat = std::chrono::ceil<std::chrono::milliseconds>(next_beat_ - Clock::now()).count();
  poll(events.data(), events.size(), static_cast<int>(std::clamp<int64_t>(until_beat, 0, 1000)));
  uint64_t drained = 0;
  [[maybe_unused]] const ssize_t size = read(wake_, &drained, sizeof drained);
  for (size_t i = 0; i < peers_.size(); ++i) {
    if (events[i + 2].revents != 0) read_lines(peers_[i]);
  }
  std::erase_if(peers_, [](const Connection& peer) {
    if (peer.fd >= 0 && (peer.rank >= 0 || seconds_since(peer.heard) < kHelloWithin_s)) return false;
    if (peer.fd >= 0) close(peer.fd);
    return true;
  });
  if (events[1].revents != 0) accept_new();
}

void Watcher::accept_new() {
  const int fd = accept4(socket_.fd, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) return;
  const auto strangers = std::ranges::count_if(peers_, [](const Connection& peer) { return peer.rank < 0; });
  if (strangers >= kMostStrangers) {
    close(fd);
  } else {
    peers_.push_back({.fd = fd});
  }
}

/// Takes what has come; a connection that ended, or talks nonsense, gets a descriptor of -1.
void Watcher::read_lines(Connection& from) {
  std::array<char, 4096> buffer{};
  const ssize_t size = recv(from.fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (size > 0) from.text.append(buffer.data(), static_cast<size_t>(size));
  for (size_t end = from.text.find('\n'); end != std::string::npos; end = from.text.find('\n')) {
    const std::string line = from.text.substr(0, end);
    from.text.erase(0, end + 1);
    on_line(from, line);
    if (from.fd < 0) return;
  }
  if (size > 0 && from.text.size() < kMostLine) return;
  close(from.fd);
  from.fd = -1;
  if (from.rank < 0 || from.left) return;
  decide({.kind = Verdict::Kind::died,
          .rank = from.rank,
          .text = fmt::format("rank {} is lost: its connection closed", from.rank)});
}

void Watcher::on_line(Connection& from, const std::string& line) {
  std::string_view rest = line;
  const std::string_view word = take_word(rest);
  from.heard = Clock::now();
  if (from.rank < 0) {
    const std::string_view token = take_word(rest);
    const int64_t rank = number_of(rest);
    if (word == "hello" && token == options_.token && rank > 0 && rank < options_.size) {
      from.rank = rank;
      if (!verdict_line_.empty()) send_line(from.fd, verdict_line_);
    } else {
      close(from.fd);
      from.fd = -1;
    }
  } else if (word == "beat") {
    from.calls = static_cast<uint64_t>(number_of(rest));
  } else if (word == "bye") {
    from.left = true;
    left_.push_back(from.rank);
  } else if (word == "broken") {
    broken_ = true;
  } else if (word == "failed" && is_hub()) {
    decide(
        {.kind = Verdict::Kind::failed, .rank = from.rank, .text = fmt::format("rank {} failed: {}", from.rank, rest)});
  } else if (word == "late" && is_hub()) {
    const auto calls = static_cast<uint64_t>(number_of(take_word(rest)));
    judge_late(from.rank, calls, number_of(rest));
  } else if (word == "verdict" && !is_hub()) {
    const auto kind = static_cast<Verdict::Kind>(number_of(take_word(rest)));
    const int64_t rank = number_of(take_word(rest));
    decide({.kind = kind, .rank = rank, .text = std::string(rest)});
  }
  if (broken_ && !left_.empty()) {
    decide({.kind = Verdict::Kind::died,
            .rank = left_.front(),
            .text = fmt::format("rank {} is lost: it has ended", left_.front())});
  }
}

/// A rank has waited in vain in its call `calls`: for one that is silent, or else for the one that it names, or one
/// that has not come so far.
void Watcher::judge_late(int64_t asking, uint64_t calls, int64_t waited_for) {
  const double silent_s = 2.5 * options_.beat_s;
  for (const Connection& peer : peers_) {
    if (peer.rank < 0 || peer.left || peer.rank == asking || seconds_since(peer.heard) < silent_s) continue;
    decide({.kind = Verdict::Kind::silent,
            .rank = peer.rank,
            .text = fmt::format("rank {} is lost: nothing heard of it for {:.1f} s", peer.rank,
                                seconds_since(peer.heard))});
    return;
  }
  if (waited_for >= 0) {
    decide({.kind = Verdict::Kind::late,
            .rank = waited_for,
            .text = fmt::format("rank {} is lost: rank {} waited for it in call {}", waited_for, asking, calls)});
    return;
  }
  const auto behind = [&](int64_t rank, uint64_t theirs) {
    if (rank == asking || theirs >= calls) return false;
    decide({.kind = Verdict::Kind::late,
            .rank = rank,
            .text = fmt::format("rank {} is lost: rank {} waited for it in call {}, it has come to call {}", rank,
                                asking, calls, theirs)});
    return true;
  };
  if (behind(0, calls_)) return;
  for (const Connection& peer : peers_) {
    if (peer.rank >= 0 && !peer.left && behind(peer.rank, peer.calls)) return;
  }
}

void Watcher::look_around() {
  for (const Connection& peer : peers_) {
    if (peer.rank < 0 || peer.left || seconds_since(peer.heard) < options_.silence_s) continue;
    decide({.kind = Verdict::Kind::silent,
            .rank = peer.rank,
            .text = fmt::format("rank {} is lost: nothing heard of it for {:.1f} s", peer.rank,
                                seconds_since(peer.heard))});
  }
  if (!options_.launcher.empty() && getppid() != parent_) {
    decide({.kind = Verdict::Kind::launcher,
            .rank = -1,
            .text = fmt::format("the launcher with the store at {} is gone", options_.launcher)});
  }
  const auto verdict = [&]() -> std::optional<Verdict> {
    const std::lock_guard lock(mutex_);
    return ends_by_itself_ ? std::nullopt : verdict_;
  }();
  if (!verdict || abandoned_ || seconds_since(decided_) < options_.grace_s) return;
  abandoned_ = true;
  if (options_.abandon) options_.abandon(*verdict);
}

/// The first verdict stands.
void Watcher::decide(const Verdict& verdict) {
  if (std::exchange(decided_once_, true)) return;
  if (is_hub()) {
    verdict_line_ = fmt::format("verdict {} {} {}", static_cast<int>(verdict.kind), verdict.rank, verdict.text);
    say(verdict_line_);
  }
  if (options_.report) options_.report(verdict);
  decided_ = Clock::now();
  const std::lock_guard lock(mutex_);
  verdict_ = verdict;
  changed_.notify_all();
}

}  // namespace unigrpo::parallel

#include "parallel/meeting.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "base/fault.h"
#include "base/left_behind.h"
#include "parallel/transport.h"
#include "parallel/watcher.h"

namespace unigrpo::parallel {
namespace {

using Json = nlohmann::json;
using namespace std::chrono_literals;

constexpr auto kPoll = 10ms;
constexpr double kLookAround = 0.8;  // of the deadline
constexpr double kHostStays_s = 5;   // for the others to read what is wrong
constexpr double kLate_s = 60;       // c10d gives up after the meeting has, which knows who is missing

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string allowed_cpus() {
  const std::string key = "Cpus_allowed_list:\t";
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return line.substr(key.size());
  }
  return {};
}

/// Equal for processes that reach each other over the loopback interface: of one boot and one network namespace.
std::string machine_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string boot;
  std::getline(file, boot);
  char network[64] = {};
  if (readlink("/proc/self/ns/net", network, sizeof network - 1) < 0) network[0] = '\0';
  return boot + " " + network;
}

/// "a", or where texts of several lines differ "line 7: a".
std::pair<std::string, std::string> first_difference(const std::string& a, const std::string& b) {
  if (a.find('\n') == std::string::npos && b.find('\n') == std::string::npos) return {a, b};
  std::istringstream lines_a(a), lines_b(b);
  std::string line_a, line_b;
  do {
    if (!std::getline(lines_a, line_a)) line_a = "(nothing more)";
    if (!std::getline(lines_b, line_b)) line_b = "(nothing more)";
  } while (line_a == line_b && lines_a && lines_b);
  return {line_a, line_b};
}

/// What a rank writes into the store about itself.
struct Card {
  Peer peer;
  std::string machine, token;
  std::vector<std::pair<std::string, std::string>> same;
  std::optional<Failure> failure;

  std::string text() const {
    Json json = {{"rank", peer.rank},     {"local_rank", peer.local_rank},
                 {"pid", peer.pid},       {"host", peer.host},
                 {"device", peer.device}, {"cpus", peer.cpus},
                 {"machine", machine},    {"token", token},
                 {"same", same}};
    if (failure) json["failure"] = {static_cast<int>(failure->code), failure->line};
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  static Card read(const std::string& text) {
    const Json json = Json::parse(text);
    Card card;
    card.peer = {.rank = json.at("rank").get<int64_t>(),
                 .local_rank = json.at("local_rank").get<int64_t>(),
                 .pid = json.at("pid").get<int64_t>(),
                 .host = json.at("host").get<std::string>(),
                 .device = json.at("device").get<std::string>(),
                 .cpus = json.at("cpus").get<std::string>()};
    card.machine = json.at("machine").get<std::string>();
    card.token = json.at("token").get<std::string>();
    card.same = json.at("same").get<std::vector<std::pair<std::string, std::string>>>();
    if (const auto failure = json.find("failure"); failure != json.end()) {
      card.failure = Failure{static_cast<ExitCode>(failure->at(0).get<int>()), failure->at(1).get<std::string>()};
    }
    return card;
  }
};

Card own_card(const World& world, const Terms& terms) {
  std::random_device random;
  Card card;
  card.peer = this_process(world, terms.device);
  card.machine = machine_id();
  card.token = fmt::format("{:08x}{:08x}", random(), random());
  card.same = {{"WORLD_SIZE", std::to_string(world.size)}};
  card.same.insert(card.same.end(), terms.same.begin(), terms.same.end());
  card.failure = terms.failure;
  return card;
}

void require_same(const Card& first, const Card& other) {
  for (size_t i = 0; i < std::max(first.same.size(), other.same.size()); ++i) {
    const auto& [name, text] = i < first.same.size() ? first.same[i] : std::pair{other.same[i].first, std::string()};
    const auto& theirs = i < other.same.size() ? other.same[i].second : std::string();
    if (text == theirs) continue;
    const auto [a, b] = first_difference(text, theirs);
    throw BadInput("the ranks differ in {}: rank {} on {} has '{}', rank {} on {} has '{}'", name, first.peer.rank,
                   first.peer.host, a, other.peer.rank, other.peer.host, b);
  }
}

/// The meeting's own thread may be left behind, so all that it uses is its own.
class Meeting {
 public:
  Meeting(const World& world, const Terms& terms, Comm::Options options)
      : world_(world), card_(own_card(world, terms)), options_(std::move(options)) {}

  void run() {
    fault::point("meeting");
    try {
      store_ = std::make_shared<Store>(world_, options_.deadlines.meeting_s + kLate_s);
    } catch (const std::exception& error) {
      throw PeerLost("the store at {}: {}", where(), describe_failure(error).line);
    }
    try {
      become_a_group();
    } catch (const PeerLost&) {
      throw;
    } catch (const BadInput&) {
      stay_for_readers();
      throw;
    } catch (const RuntimeFailure&) {
      stay_for_readers();
      throw;
    } catch (const std::exception& error) {  // c10d's
      throw PeerLost("the meeting at {}{}: {}", where(), unseen(), describe_failure(error).line);
    }
  }

  /// Once all have come, connected or not.
  std::shared_ptr<Comm> comm() const {
    const std::lock_guard lock(mutex_);
    return comm_;
  }

  /// Who has not come by now.
  std::string missing() const {
    const std::lock_guard lock(mutex_);
    const std::vector<std::string> absent = not_seen();
    if (absent.empty() && (comm_ || !others_store())) {
      return fmt::format("the ranks came to {}, but could not connect with each other", where());
    }
    if (absent.empty() || came_.empty()) {
      return fmt::format("the store at {}, which {} opens, does not answer", where(),
                         world_.launcher_has_store ? "the launcher" : "rank 0");
    }
    return fmt::format("{} of {} did not come to {}", fmt::join(absent, ", "), world_.size, where());
  }

 private:
  std::vector<std::string> not_seen() const {
    std::vector<std::string> names;
    for (int64_t r = 0; r < world_.size; ++r) {
      if (std::ranges::find(came_, r) == came_.end()) names.push_back(fmt::format("rank {}", r));
    }
    return names;
  }
  /// For a store that went away while this rank waited.
  std::string unseen() const {
    const std::lock_guard lock(mutex_);
    const std::vector<std::string> absent = not_seen();
    if (absent.empty()) return others_store() ? ", which rank 0 holds, ended" : "";
    return fmt::format(" ended before {} was seen there", fmt::join(absent, ", "));
  }
  /// Whether it ends with rank 0.
  bool others_store() const { return world_.rank != 0 && !world_.launcher_has_store; }
  std::string where() const { return fmt::format("{}:{}", world_.address, world_.port); }

  void become_a_group() {
    fault::point("store.get");
    if (store_->claim(key("card", world_.rank), card_.text()) != card_.text()) {
      const Card other = Card::read(*store_->find(key("card", world_.rank)));
      throw BadInput("two processes are rank {}: {} on {} and {} on {}", world_.rank, other.peer.pid, other.peer.host,
                     card_.peer.pid, card_.peer.host);
    }
    came(world_.rank);
    bool one_machine = true;
    std::optional<Card> first;
    for (int64_t r = 0; r < world_.size; ++r) {
      const Card card = wait_for(r);
      came(r);
      if (!first) first = card;
      require_same(*first, card);
      if (card.failure) throw_failure(card);
      one_machine = one_machine && card.machine == card_.machine;
      options_.peers.push_back(card.peer);
    }
    store_->set(key("read", world_.rank), "");
    const Comm::Watch watch = watch_link(one_machine);
    const double timeout_s = options_.deadlines.meeting_s + kLate_s;
    MakeGroup make_group = [store = store_, one_machine, timeout_s, device = options_.device](
                               const std::string& name, int64_t rank, int64_t size) {
      return std::make_unique<Group>(*store, Group::Options{.name = name,
                                                            .rank = rank,
                                                            .size = size,
                                                            .one_machine = one_machine,
                                                            .timeout_s = timeout_s,
                                                            .device = device});
    };
    auto comm = std::make_shared<Comm>(std::move(make_group), world_.rank, world_.size, options_, watch);
    {
      const std::lock_guard lock(mutex_);
      comm_ = comm;
    }
    comm->connect();
    comm->barrier("meeting");
  }

  /// Rank 0 listens, and says where in the store; its card's token keeps strangers out.
  Comm::Watch watch_link(bool one_machine) {
    Comm::Watch watch;
    if (world_.launcher_has_store) watch.launcher = where();
    if (world_.rank == 0) {
      watch.socket = listen_for_watchers(one_machine);
      watch.token = card_.token;
      store_->set("watch", std::to_string(watch.socket.port));
      return watch;
    }
    watch.token = Card::read(*store_->find(key("card", 0))).token;
    const auto port = static_cast<uint16_t>(std::stoi(wait_for_text("watch")));
    watch.socket = connect_to_watcher(one_machine ? "127.0.0.1" : world_.address, port);
    return watch;
  }

  static std::string key(const char* kind, int64_t rank) { return fmt::format("{}/{}", kind, rank); }

  void came(int64_t rank) {
    const std::lock_guard lock(mutex_);
    came_.push_back(rank);
  }

  std::string wait_for_text(const std::string& name) {
    for (;;) {
      if (const auto text = store_->find(name)) return *text;
      std::this_thread::sleep_for(kPoll);
    }
  }
  /// Late in the meeting it looks for those after that one too, once: who is missing shall be all that are said to be.
  Card wait_for(int64_t rank) {
    for (;;) {
      if (const auto text = store_->find(key("card", rank))) return Card::read(*text);
      if (!looked_ && since_start_.seconds() > kLookAround * options_.deadlines.meeting_s) {
        looked_ = true;
        for (int64_t r = rank + 1; r < world_.size; ++r) {
          if (store_->find(key("card", r))) came(r);
        }
      }
      std::this_thread::sleep_for(kPoll);
    }
  }

  [[noreturn]] static void throw_failure(const Card& card) {
    if (card.failure->code == ExitCode::bad_input) throw BadInput("{}", card.failure->line);
    throw RuntimeFailure("{}", card.failure->line);
  }

  /// The store ends with its host, who waits until all have seen what is wrong.
  void stay_for_readers() {
    try {
      store_->set(key("read", world_.rank), "");
      if (world_.rank != 0 || world_.launcher_has_store) return;
      const Stopwatch watch;
      for (int64_t r = 0; r < world_.size && watch.seconds() < kHostStays_s;) {
        if (store_->find(key("read", r))) {
          ++r;
        } else {
          std::this_thread::sleep_for(kPoll);
        }
      }
    } catch (const std::exception&) {  // the store is gone: what is being thrown already says more
    }
  }

  const World world_;
  const Card card_;
  Comm::Options options_;
  std::shared_ptr<Store> store_;
  std::shared_ptr<Comm> comm_;
  const Stopwatch since_start_;
  bool looked_ = false;
  mutable std::mutex mutex_;
  std::vector<int64_t> came_;
};

}  // namespace

Peer this_process(const World& world, const std::string& device) {
  return {.rank = world.rank,
          .local_rank = world.local_rank,
          .pid = getpid(),
          .host = host_name(),
          .device = device,
          .cpus = allowed_cpus()};
}

std::shared_ptr<Comm> meet(const World& world, const Terms& terms, const Comm::Options& options, StopToken stop) {
  if (world.size == 1) {
    if (terms.failure && terms.failure->code == ExitCode::bad_input) throw BadInput("{}", terms.failure->line);
    if (terms.failure) throw RuntimeFailure("{}", terms.failure->line);
    return nullptr;
  }
  // Gloo writes to a lost rank's connection: an error that names it, not the end of this process.
  std::signal(SIGPIPE, SIG_IGN);
  const auto meeting = std::make_shared<Meeting>(world, terms, options);
  const std::string what = fmt::format("the ranks were not all there yet at {}:{}", world.address, world.port);
  try {
    const bool came = run_leavable(stop, what, [meeting] { meeting->run(); }, options.deadlines.meeting_s);
    if (!came) {
      const std::string line = fmt::format("{} within {:g} s", meeting->missing(), options.deadlines.meeting_s);
      if (const auto comm = meeting->comm()) comm->give_up(line);
      throw PeerLost("{}", line);
    }
  } catch (const PeerLost&) {
    // A signal to all ranks ends rank 0 too, and its store: what this rank then misses was not lost.
    if (!stop.requested()) throw;
    throw Interrupted(fmt::format("{}: {}", stop.signal(), what));
  }
  return meeting->comm();
}

}  // namespace unigrpo::parallel

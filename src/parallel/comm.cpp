#include "parallel/comm.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "base/failure.h"
#include "base/fault.h"
#include "base/hash.h"
#include "base/left_behind.h"
#include "base/stacks.h"
#include "parallel/transport.h"

namespace unigrpo::parallel {
namespace {

/// A call that failed after so much of its deadline failed because of it.
constexpr double kLateShare = 0.95;

constexpr double kLeastSilence_s = 3;  // heartbeats come every second

/// Below this many bytes a sum travels in one exchange of everything instead of two exchanges of shares.
constexpr int64_t kSmallSum_bytes = 1 << 16;
/// Of all ranks' shares that are summed at once: what a rank gets anew for each piece comes from memory that it has.
constexpr int64_t kPiece_bytes = 16 << 20;

double clock_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string described(const at::Tensor& tensor) {
  return fmt::format("{} [{}]", c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "));
}

void require_sound(const Group& group, const at::Tensor& tensor, const char* purpose) {
  if (!tensor.is_contiguous()) {
    throw std::invalid_argument(fmt::format("{}: a tensor that is not contiguous, {} with strides [{}]", purpose,
                                            described(tensor), fmt::join(tensor.strides(), ", ")));
  }
  if (!tensor.is_cpu() && tensor.device() != group.device()) {
    throw std::invalid_argument(fmt::format("{}: a tensor on {}, expected one on the CPU{}", purpose,
                                            tensor.device().str(),
                                            group.device().is_cpu() ? "" : " or " + group.device().str()));
  }
}

void require_summable(const Group& group, const at::Tensor& tensor, const char* purpose) {
  require_sound(group, tensor, purpose);
  if (tensor.scalar_type() == at::kBool) {
    throw std::invalid_argument(fmt::format("{}: a sum of bool; flags travel as int32", purpose));
  }
}

void require_gathered(const Group& group, const at::Tensor& all, const at::Tensor& mine, const char* purpose) {
  require_sound(group, all, purpose);
  require_sound(group, mine, purpose);
  if (all.scalar_type() != mine.scalar_type() || all.numel() != group.size() * mine.numel()) {
    throw std::invalid_argument(fmt::format("{}: {} is not that of {} ranks with {} each", purpose, described(all),
                                            group.size(), described(mine)));
  }
}

/// The memory of a tensor as uint8 [bytes].
at::Tensor bytes_of(const at::Tensor& tensor) { return tensor.detach().view({-1}).view(at::kByte); }

at::Tensor bytes_of(const std::string& text) {
  return at::from_blob(const_cast<char*>(text.data()), {static_cast<int64_t>(text.size())}, at::kByte);
}

/// rows: [size, n]; writes their sum in rank order into out, [n]. Of low precision the sum alone is rounded.
void sum_rows(const at::Tensor& rows, at::Tensor out) {
  const bool low = rows.scalar_type() == at::kBFloat16 || rows.scalar_type() == at::kHalf;
  at::Tensor sum = low ? at::empty(out.sizes(), out.options().dtype(at::kFloat)) : out;
  at::add_out(sum, low ? rows[0].to(at::kFloat) : rows[0], rows[1]);
  for (int64_t r = 2; r < rows.size(0); ++r) sum.add_(rows[r]);
  if (low) out.copy_(sum);
}

}  // namespace

/// What the groups of a process have in common: where it stands, what it has called, who watches it.
struct Comm::Shared {
  struct Place {
    int64_t step = 0;
    std::string phase = "meeting";
    double deadline_s = 0;
  };

  Shared(MakeGroup make, int64_t rank_, int64_t size, Options options_, const Watch& watch)
      : options(std::move(options_)),
        rank(rank_),
        make_group(std::move(make)),
        place{.deadline_s = options.deadlines.meeting_s},
        start_s(clock_s()),
        watcher({.rank = rank,
                 .size = size,
                 .token = watch.token,
                 .launcher = watch.launcher,
                 .silence_s = std::max(options.deadlines.step_s, kLeastSilence_s),
                 .report = [this](const Verdict& found) { write_report(found); },
                 .abandon =
                     [this](const Verdict& found) {
                       if (options.end_process) options.end_process(fmt::format("{} ({})", found.text, where()), found);
                     }},
                watch.socket) {}

  double now_s() const { return clock_s() - start_s; }
  Place current_place() const;
  std::string where() const;
  [[noreturn]] void lost(bool late, const std::exception& cause, int64_t waited_for = -1);
  void write_report(const Verdict& found);

  const Options options;
  const int64_t rank;    // in the world
  MakeGroup make_group;  // until the store is closed
  std::map<std::string, int64_t> groups_made;
  CallRecord calls;
  mutable std::mutex mutex;  // of what the watcher's thread reads
  Place place;
  std::filesystem::path run_folder;
  std::optional<Verdict> verdict;
  int64_t first_step = -1;
  double start_s = 0;
  Watcher watcher;  // last: its thread uses the others
};

Comm::Shared::Place Comm::Shared::current_place() const {
  const std::lock_guard lock(mutex);
  return place;
}

/// "step 3, update: all_reduce of 'gradients', call 57"; between calls "step 3, update, after call 57".
std::string Comm::Shared::where() const {
  const Place at = current_place();
  const std::vector<Call> last = calls.last();
  if (last.empty()) return fmt::format("step {}, {}", at.step, at.phase);
  const Call& call = last.back();
  if (call.end_s >= 0) return fmt::format("step {}, {}, after call {}", at.step, at.phase, call.number);
  return fmt::format("step {}, {}: {} of '{}', call {}", call.step, call.phase, call.kind, call.purpose, call.number);
}

void Comm::Shared::lost(bool late, const std::exception& cause, int64_t waited_for) {
  constexpr double kPatience_s = 3;
  const auto found = watcher.why(late, kPatience_s, waited_for);
  throw PeerLost("{} ({})", found ? found->text : "a rank is lost: " + describe_failure(cause).line, where());
}

/// On the watcher's thread. A report that cannot be written must not keep a rank from ending.
void Comm::Shared::write_report(const Verdict& found) {
  std::filesystem::path folder;
  {
    const std::lock_guard lock(mutex);
    verdict = found;
    folder = run_folder;
  }
  if (found.kind == Verdict::Kind::failed) return;  // that rank's own line says all
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) return;
  std::filesystem::create_directories(folder / "hang", error);
  std::ofstream file(folder / "hang" / fmt::format("rank_{}.txt", rank));
  file << fmt::format("rank {}: {} ({})\n\nThe last calls:\n{}", rank, found.text, where(), calls.table())
       << std::flush;  // what follows may fail
  file << "\nThe threads:\n" << thread_stacks();
}

Comm::Comm(MakeGroup make_group, int64_t rank, int64_t size, Options options, const Watch& watch)
    : peers_(options.peers) {
  shared_ = std::make_shared<Shared>(std::move(make_group), rank, size, std::move(options), watch);
}

void Comm::connect() {
  fault::point("meeting.group");
  try {
    group_ = shared_->make_group("data", shared_->rank, static_cast<int64_t>(peers_.size()));
  } catch (const std::exception& cause) {
    shared_->lost(/*late=*/false, cause);
  }
}

void Comm::give_up(const std::string& line) { shared_->lost(/*late=*/true, std::runtime_error(line)); }

Comm::Comm(std::shared_ptr<Shared> shared, std::unique_ptr<Group> group, std::vector<Peer> peers, uint64_t id)
    : group_(std::move(group)), peers_(std::move(peers)), id_(id), shared_(std::move(shared)) {}

Comm::~Comm() = default;

std::shared_ptr<Comm> Comm::subgroup(const std::vector<int64_t>& ranks, const std::string& name) const {
  const auto own = std::ranges::find(ranks, rank());
  if (own == ranks.end() || std::ranges::any_of(ranks, [&](int64_t r) { return r < 0 || r >= size(); })) {
    throw std::invalid_argument(
        fmt::format("group '{}' of ranks {}: made by rank {} of {}", name, fmt::join(ranks, ", "), rank(), size()));
  }
  if (ranks.size() == 1) return nullptr;
  if (!shared_->make_group) throw std::logic_error("group '" + name + "' is made after the store was closed");
  std::vector<Peer> peers;
  std::string full_name = name;
  for (const int64_t r : ranks) {
    peers.push_back(peers_[static_cast<size_t>(r)]);
    full_name += fmt::format("/{}", peers.back().rank);
  }
  full_name += fmt::format("/{}", shared_->groups_made[full_name]++);  // what the store holds of an earlier one is old
  const double deadline_s = shared_->options.deadlines.meeting_s;
  const auto made = std::make_shared<std::unique_ptr<Group>>();  // by a thread that may be left behind
  const auto late = std::runtime_error(fmt::format("group '{}' did not come together within {:g} s", name, deadline_s));
  try {
    const bool came = run_leavable(
        {}, {},
        [made, make = shared_->make_group, full_name, index = own - ranks.begin(), size = ranks.size()] {
          *made = make(full_name, index, static_cast<int64_t>(size));
        },
        deadline_s);
    if (!came) throw late;
  } catch (const std::exception& cause) {
    shared_->lost(/*late=*/false, cause);
  }
  return std::shared_ptr<Comm>(new Comm(shared_, std::move(*made), std::move(peers), fnv1a64(full_name)));
}

void Comm::close_store() { shared_->make_group = nullptr; }

int64_t Comm::rank() const { return group_->rank(); }
int64_t Comm::size() const { return group_->size(); }
CallRecord& Comm::calls() const { return shared_->calls; }

void Comm::enter(int64_t step, const std::string& phase) {
  const std::lock_guard lock(shared_->mutex);
  if (shared_->first_step < 0) shared_->first_step = step;
  const Deadlines& deadlines = shared_->options.deadlines;
  const double deadline_s = phase == "save"                   ? deadlines.save_s
                            : step <= shared_->first_step + 1 ? deadlines.first_step_s
                                                              : deadlines.step_s;
  shared_->place = {.step = step, .phase = phase, .deadline_s = deadline_s};
}

void Comm::enter_end() {
  const std::lock_guard lock(shared_->mutex);
  shared_->place.phase = "end";
  shared_->place.deadline_s = shared_->options.deadlines.save_s;
}

void Comm::record(const char* kind, const char* purpose, const at::Tensor& tensor, CallPlace place, int64_t with,
                  int64_t bytes, const std::function<void(double)>& work) {
  const at::NoGradGuard no_grad;
  const Shared::Place at = shared_->current_place();
  const double start_s = shared_->now_s();
  CallRecord& calls = shared_->calls;
  calls.begin({.place = place,
               .kind = kind,
               .purpose = purpose,
               .phase = at.phase,
               .step = at.step,
               .what = described(tensor),
               .start_s = start_s});
  shared_->watcher.reached(calls.count());
  fault::point("collective");
  if (fault::enabled.load(std::memory_order_relaxed)) fault::point(fmt::format("collective.{}", purpose));
  try {
    work(at.deadline_s);
  } catch (const RuntimeFailure&) {
    throw;  // unlike calls
  } catch (const std::exception& cause) {
    shared_->lost(shared_->now_s() - start_s > kLateShare * at.deadline_s, cause, with);
  }
  calls.end(shared_->now_s(), bytes);
}

void Comm::call(const char* kind, const char* purpose, const at::Tensor& tensor, int64_t bytes,
                const std::function<void(double)>& work) {
  ++calls_;
  record(kind, purpose, tensor, {.group = id_, .place = calls_}, /*with=*/-1, bytes, [&](double deadline_s) {
    if (shared_->options.check_calls) {
      check_alike(fmt::format("{} of '{}', {}, call {}", kind, purpose, described(tensor), calls_), deadline_s);
    }
    work(deadline_s);
  });
}

void Comm::failed(const std::string& line) { shared_->watcher.failed(line); }

std::optional<Verdict> Comm::verdict() const {
  const std::lock_guard lock(shared_->mutex);
  return shared_->verdict;
}

void Comm::set_run_folder(const std::filesystem::path& folder) {
  const std::lock_guard lock(shared_->mutex);
  shared_->run_folder = folder;
}

void Comm::check_alike(const std::string& description, double deadline_s) {
  constexpr size_t kLength = 160;
  std::string mine = description;
  mine.resize(kLength, ' ');
  at::Tensor all = at::empty({size() * static_cast<int64_t>(kLength)}, at::kByte);
  exchange(all, bytes_of(mine), deadline_s);
  const std::string_view texts(static_cast<const char*>(all.data_ptr()), static_cast<size_t>(all.numel()));
  for (int64_t r = 0; r < size(); ++r) {
    const std::string_view other = texts.substr(static_cast<size_t>(r) * kLength, kLength);
    if (other == mine) continue;
    throw RuntimeFailure("the ranks make unlike calls: rank {} {}; rank {} {}", rank(), description, r,
                         other.substr(0, other.find_last_not_of(' ') + 1));
  }
}

/// all: [size x n] bytes of all ranks in rank order, from everyone's [n].
void Comm::exchange(at::Tensor& all, const at::Tensor& mine, double deadline_s) {
  group_->start_all_gather(bytes_of(all), bytes_of(mine), deadline_s)->wait();
}

/// all: [size x n]; writes the sum of everyone's share `rank` into sum, [n]. Piece by piece on the CPU, each on its way
/// while the one before it is summed: of large buffers, most of the time would go into memory that is new each time.
void Comm::scattered_sum(at::Tensor& sum, const at::Tensor& all, double deadline_s) {
  const at::Tensor shares = all.view({size(), -1}), own = sum.view({-1});
  const int64_t n = own.numel(), element = all.element_size();
  const int64_t most = all.is_cuda() ? n : std::max<int64_t>(1, kPiece_bytes / (size() * element));
  struct Piece {
    at::Tensor rows = {};
    std::unique_ptr<Group::Exchange> exchange = nullptr;
  };
  const auto start = [&](int64_t first) {
    const at::Tensor part = shares.narrow(1, first, std::min(most, n - first));
    Piece piece{.rows = at::empty(part.sizes(), part.options())};
    piece.exchange = group_->start_swap(piece.rows.view(at::kByte), part.view(at::kByte), deadline_s);
    return piece;
  };
  Piece next = start(0);
  for (int64_t first = 0; first == 0 || first < n; first += most) {
    const Piece piece = std::exchange(next, {});
    if (first + most < n) next = start(first + most);
    piece.exchange->wait();
    sum_rows(piece.rows, own.narrow(0, first, piece.rows.size(1)));
  }
}

void Comm::all_reduce(at::Tensor& tensor, const char* purpose) {
  require_summable(*group_, tensor, purpose);
  const int64_t n = tensor.numel(), element = tensor.element_size();
  if (n * element <= kSmallSum_bytes) {
    call("all_reduce", purpose, tensor, (size() - 1) * n * element, [&](double deadline_s) {
      const at::Tensor all = at::empty({size(), n}, tensor.options());
      at::Tensor flat = all.view({-1});
      exchange(flat, tensor, deadline_s);
      sum_rows(all, tensor.view({-1}));
    });
    return;
  }
  const int64_t share = (n + size() - 1) / size();
  call("all_reduce", purpose, tensor, 2 * (size() - 1) * share * element, [&](double deadline_s) {
    const bool is_even = n % size() == 0;
    at::Tensor padded = is_even ? tensor.view({-1}) : at::zeros({size() * share}, tensor.options());
    if (!is_even) padded.narrow(0, 0, n).copy_(tensor.view({-1}));
    at::Tensor sum = at::empty({share}, tensor.options());
    scattered_sum(sum, padded, deadline_s);
    exchange(padded, sum, deadline_s);
    if (!is_even) tensor.copy_(padded.narrow(0, 0, n).view(tensor.sizes()));
  });
}

void Comm::broadcast(at::Tensor& tensor, int64_t root, const char* purpose) {
  require_sound(*group_, tensor, purpose);
  at::Tensor bytes = bytes_of(tensor);
  call("broadcast", purpose, tensor, rank() == root ? (size() - 1) * bytes.numel() : 0, [&](double deadline_s) {
    if (bytes.numel() > 0) group_->broadcast(bytes, root, deadline_s);
  });
}

void Comm::all_gather(at::Tensor& all, const at::Tensor& mine, const char* purpose) {
  require_gathered(*group_, all, mine, purpose);
  call("all_gather", purpose, mine, (size() - 1) * mine.numel() * mine.element_size(),
       [&](double deadline_s) { exchange(all, mine, deadline_s); });
}

class Comm::Gathering {
 public:
  at::Tensor mine;
  const char* purpose = "";
  std::unique_ptr<Group::Exchange> exchange;
  std::exception_ptr failure = nullptr;  // of its start
};

std::shared_ptr<Comm::Gathering> Comm::start_all_gather(const at::Tensor& all, const at::Tensor& mine,
                                                        const char* purpose) {
  require_gathered(*group_, all, mine, purpose);
  const at::NoGradGuard no_grad;
  auto gathering = std::make_shared<Gathering>();
  gathering->mine = mine;
  gathering->purpose = purpose;
  try {
    gathering->exchange = group_->start_all_gather(bytes_of(all), bytes_of(mine), shared_->current_place().deadline_s);
  } catch (const std::exception&) {
    gathering->failure = std::current_exception();
  }
  return gathering;
}

void Comm::finish(Gathering& gathering) {
  const at::Tensor& mine = gathering.mine;
  call("all_gather", gathering.purpose, mine, (size() - 1) * mine.numel() * mine.element_size(), [&](double) {
    if (gathering.failure) std::rethrow_exception(gathering.failure);
    gathering.exchange->wait();
  });
}

class Comm::Message {
 public:
  bool sends = false;
  int64_t with = -1;  // rank of the world
  at::Tensor tensor;
  const char* purpose = "";
  CallPlace place;
  std::unique_ptr<Group::Exchange> exchange;  // null: of no bytes
  std::exception_ptr failure = nullptr;       // of its start
};

std::shared_ptr<Comm::Message> Comm::start_message(bool sends, const at::Tensor& tensor, int64_t other,
                                                   const char* purpose) {
  require_sound(*group_, tensor, purpose);
  if (other < 0 || other >= size() || other == rank()) {
    throw std::invalid_argument(
        fmt::format("{}: a message between rank {} and rank {} of {}", purpose, rank(), other, size()));
  }
  const at::NoGradGuard no_grad;
  const std::pair<int64_t, int64_t> way = sends ? std::pair(rank(), other) : std::pair(other, rank());
  auto message = std::make_shared<Message>();
  message->sends = sends;
  message->with = peers_[static_cast<size_t>(other)].rank;
  message->tensor = tensor;
  message->purpose = purpose;
  message->place = {.group = fnv1a64(fmt::format("{}/{}/{}", id_, way.first, way.second)), .place = ++messages_[way]};
  try {
    if (tensor.numel() > 0) {
      message->exchange = group_->start_message(sends, bytes_of(tensor), other, shared_->current_place().deadline_s);
    }
  } catch (const std::exception&) {
    message->failure = std::current_exception();
  }
  return message;
}

std::shared_ptr<Comm::Message> Comm::start_send(const at::Tensor& tensor, int64_t to, const char* purpose) {
  return start_message(/*sends=*/true, tensor, to, purpose);
}

std::shared_ptr<Comm::Message> Comm::start_receive(const at::Tensor& tensor, int64_t from, const char* purpose) {
  return start_message(/*sends=*/false, tensor, from, purpose);
}

void Comm::finish(Message& message) {
  const int64_t bytes = message.sends ? message.tensor.numel() * message.tensor.element_size() : 0;
  const char* kind = message.sends ? "send" : "receive";
  record(kind, message.purpose, message.tensor, message.place, message.with, bytes, [&](double) {
    if (message.failure) std::rethrow_exception(message.failure);
    if (message.exchange) message.exchange->wait();
  });
}

void Comm::reduce_scatter(at::Tensor& mine, const at::Tensor& all, const char* purpose) {
  require_gathered(*group_, all, mine, purpose);
  require_summable(*group_, all, purpose);
  call("reduce_scatter", purpose, mine, (size() - 1) * mine.numel() * mine.element_size(),
       [&](double deadline_s) { scattered_sum(mine, all, deadline_s); });
}

void Comm::all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& out_counts,
                      const std::vector<int64_t>& in_counts, const char* purpose) {
  require_sound(*group_, out, purpose);
  require_sound(*group_, in, purpose);
  const auto bytes_of_rows = [&](const at::Tensor& tensor, const std::vector<int64_t>& counts) {
    const int64_t rows = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    if (tensor.dim() == 0 || tensor.size(0) != rows || static_cast<int64_t>(counts.size()) != size() ||
        std::ranges::any_of(counts, [](int64_t count) { return count < 0; })) {
      throw std::invalid_argument(fmt::format("{}: {} does not hold [{}] rows of {} ranks", purpose, described(tensor),
                                              fmt::join(counts, ", "), size()));
    }
    const int64_t row = rows == 0 ? 0 : tensor.numel() / rows * tensor.element_size();
    std::vector<int64_t> bytes;
    for (const int64_t count : counts) bytes.push_back(count * row);
    return bytes;
  };
  const std::vector<int64_t> out_bytes = bytes_of_rows(out, out_counts), in_bytes = bytes_of_rows(in, in_counts);
  at::Tensor received = bytes_of(out);
  const int64_t sent = bytes_of(in).numel() - in_bytes[static_cast<size_t>(rank())];
  // The shapes differ between ranks, so that a description of them would too.
  call("all_to_all", purpose, at::empty({0}, in.options()), sent,
       [&](double deadline_s) { group_->all_to_all(received, bytes_of(in), out_bytes, in_bytes, deadline_s); });
}

std::vector<std::string> Comm::gather_bytes(const std::string& mine, const char* purpose) {
  const auto length = static_cast<int64_t>(mine.size());
  std::vector<std::string> all;
  call("gather_bytes", purpose, at::empty({0}, at::kByte), (size() - 1) * (length + 8), [&](double deadline_s) {
    at::Tensor lengths = at::empty({size()}, at::kLong);
    exchange(lengths, at::full({1}, length, at::kLong), deadline_s);
    const std::vector<int64_t> out_counts(lengths.data_ptr<int64_t>(), lengths.data_ptr<int64_t>() + size());
    at::Tensor out = at::empty({lengths.sum().item<int64_t>()}, at::kByte);
    group_->all_to_all(out, bytes_of(mine).repeat({size()}), out_counts,
                       std::vector<int64_t>(static_cast<size_t>(size()), length), deadline_s);
    const char* at = static_cast<const char*>(out.data_ptr());
    for (const int64_t count : out_counts) {
      all.emplace_back(at, static_cast<size_t>(count));
      at += count;
    }
  });
  return all;
}

void Comm::barrier(const char* purpose) {
  const at::Tensor mine = at::zeros({1}, at::kByte);
  call("barrier", purpose, mine, size() - 1, [&](double deadline_s) {
    at::Tensor all = at::empty({size()}, at::kByte);
    exchange(all, mine, deadline_s);
  });
}

void Comm::vote(const std::exception_ptr& mine, const char* purpose) {
  std::string ballot;  // nothing, or the exit code and the line
  if (mine) {
    try {
      std::rethrow_exception(mine);
    } catch (const PeerLost&) {
      throw;  // nobody is there to vote
    } catch (const std::exception& error) {
      const Failure failure = describe_failure(error);
      ballot = static_cast<char>(failure.code) + failure.line;
    } catch (...) {
      ballot = static_cast<char>(ExitCode::failed) + std::string("unknown exception");
    }
  }
  const std::vector<std::string> ballots = gather_bytes(ballot, purpose);
  const auto first = std::ranges::find_if(ballots, [](const std::string& each) { return !each.empty(); });
  if (first == ballots.end()) return;
  shared_->watcher.ends_by_itself();  // however long that takes, and whoever is first
  if (first - ballots.begin() == rank()) std::rethrow_exception(mine);
  const auto code = static_cast<ExitCode>(static_cast<unsigned char>(first->front()));
  const std::string line = first->substr(1);
  if (code == ExitCode::bad_input) throw BadInput("{}", line);
  if (code == ExitCode::interrupted) throw Interrupted(line);
  throw RuntimeFailure("{}", line);
}

void Comm::together(const char* purpose, const std::function<void()>& work) {
  std::exception_ptr failure;
  try {
    work();
  } catch (...) {
    failure = std::current_exception();
  }
  vote(failure, purpose);
}

}  // namespace unigrpo::parallel

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "parallel/calls.h"
#include "parallel/watcher.h"

namespace unigrpo::parallel {

class Group;

/// How long a rank waits for the others, seconds.
struct Deadlines {
  double meeting_s = 300, first_step_s = 300, step_s = 120, save_s = 600;
};

/// A rank as the others know it.
struct Peer {
  int64_t rank = 0, local_rank = 0, pid = 0;
  std::string host = {}, device = {};
  std::string cpus = {};  // that it may run on, "0-3,8"
};

/// Makes a group of `size` ranks in which this one is `rank`; all of them ask for the same name.
using MakeGroup = std::function<std::unique_ptr<Group>(const std::string& name, int64_t rank, int64_t size)>;

/// Collectives among the ranks of a group, all of the world or some: all of them make the same calls in the same order,
/// from one thread.
///
/// `purpose` names the call in errors, hang reports and byte counts ("rewards", "gradients"). Tensors are contiguous
/// and on the CPU or the group's device, of the same shape and dtype on all ranks (all_to_all apart); another one is
/// refused (std::invalid_argument), since c10d would take as many elements in a row from the first one on. Sums are
/// taken in rank order and have the same bits on all ranks, bf16 and half in float32; bool is refused, which Gloo would
/// *or*. Throws PeerLost where a rank is gone or the deadline passes.
class Comm {
 public:
  struct Options {
    Deadlines deadlines = {};
    std::vector<Peer> peers = {};  // by rank
    at::Device device = at::kCPU;  // CUDA: tensors there travel over NCCL
    bool check_calls = false;      // compare each call with the other ranks' before it is made: another exchange each
    /// Ends the process: a rank is lost, and this one does not notice by itself, since it makes no call.
    std::function<void(const std::string& line, const Verdict& verdict)> end_process = {};
  };
  /// How the ranks watch each other, beside their calls.
  struct Watch {
    WatchSocket socket = {};
    std::string token = {}, launcher = {};
  };
  /// All ranks of the world, who watch each other from here on; calls need connect().
  Comm(MakeGroup make_group, int64_t rank, int64_t size, Options options, const Watch& watch);
  ~Comm();
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;

  /// Connects the ranks; all call it. Throws PeerLost where one is gone.
  void connect();
  /// They could not connect in time. Throws PeerLost with who is to blame, or else `line`.
  [[noreturn]] void give_up(const std::string& line);

  /// Some of these ranks, this one among them, in the order given: the same place, deadlines, watcher and record of
  /// calls. The ranks make their subgroups in one order; those with different ranks may share a name. Null for one
  /// rank. Throws PeerLost where they do not come together within the meeting's deadline.
  std::shared_ptr<Comm> subgroup(const std::vector<int64_t>& ranks, const std::string& name) const;
  /// No more subgroups: rank 0 lets go of the store where they are made.
  void close_store();

  int64_t rank() const;
  int64_t size() const;
  const std::vector<Peer>& peers() const { return peers_; }  // of this group, in its order

  /// What is being worked on from here on: named in errors and hang reports. The deadline is that of "save", of the
  /// first step entered and the one after it (the first may be the evaluation before training), or of a step.
  void enter(int64_t step, const std::string& phase);
  /// All is done but for other ranks, which may still be writing.
  void enter_end();

  void all_reduce(at::Tensor& tensor, const char* purpose);
  void broadcast(at::Tensor& tensor, int64_t root, const char* purpose);
  void all_gather(at::Tensor& all, const at::Tensor& mine, const char* purpose);  // all: [size x n], mine: [n]
  /// all_gather while this rank goes on: `all` is filled once finish() is back, which counts as the call and is made by
  /// all ranks in one order, as start_all_gather is. Neither tensor may change meanwhile.
  class Gathering;
  std::shared_ptr<Gathering> start_all_gather(const at::Tensor& all, const at::Tensor& mine, const char* purpose);
  void finish(Gathering& gathering);
  void reduce_scatter(at::Tensor& mine, const at::Tensor& all, const char* purpose);  // all: [size x n], mine: [n]
  /// in_counts[r] rows of `in` go to rank r, out_counts[r] rows of `out` come from it, in rank order.
  void all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& out_counts,
                  const std::vector<int64_t>& in_counts, const char* purpose);
  /// A tensor to another rank of the group, or from it into this one, while both go on: neither may change it until
  /// finish() is back, which counts as the call. What goes from one rank to another comes in the order in which it was
  /// sent, and each finishes it in that order; no other rank takes part.
  class Message;
  std::shared_ptr<Message> start_send(const at::Tensor& tensor, int64_t to, const char* purpose);
  std::shared_ptr<Message> start_receive(const at::Tensor& tensor, int64_t from, const char* purpose);
  void finish(Message& message);
  /// Of all ranks, on all ranks; any lengths.
  std::vector<std::string> gather_bytes(const std::string& mine, const char* purpose);
  void barrier(const char* purpose);

  /// Where a rank has an error (not null), all throw that of the first such rank: BadInput, Interrupted, or else a
  /// RuntimeFailure, with its line.
  void vote(const std::exception_ptr& mine, const char* purpose);
  /// Runs `work`, then votes on how it ended.
  void together(const char* purpose, const std::function<void()>& work);

  CallRecord& calls() const;  // of this rank, in whatever group

  /// The run folder: where a rank is lost, hang/rank_N.txt in it gets the last calls and the stacks of all threads.
  void set_run_folder(const std::filesystem::path& folder);
  /// This rank ends with an error of its own: the others end with exit code 75 and quote the line.
  void failed(const std::string& line);
  /// Why the run cannot go on; known once PeerLost was thrown.
  std::optional<Verdict> verdict() const;

 private:
  struct Shared;  // by all groups of this process
  Comm(std::shared_ptr<Shared> shared, std::unique_ptr<Group> group, std::vector<Peer> peers, uint64_t id);
  /// Makes one call of c10d's or several, which count as one; `bytes`: what this rank sends.
  void call(const char* kind, const char* purpose, const at::Tensor& tensor, int64_t bytes,
            const std::function<void(double deadline_s)>& work);
  /// `work` at its place among the calls of all ranks that make it. `with`: the one other rank of the world that does;
  /// -1: all of the group.
  void record(const char* kind, const char* purpose, const at::Tensor& tensor, CallPlace place, int64_t with,
              int64_t bytes, const std::function<void(double deadline_s)>& work);
  std::shared_ptr<Message> start_message(bool sends, const at::Tensor& tensor, int64_t other, const char* purpose);
  void check_alike(const std::string& description, double deadline_s);
  void exchange(at::Tensor& all, const at::Tensor& mine, double deadline_s);
  void scattered_sum(at::Tensor& sum, const at::Tensor& all, double deadline_s);

  std::unique_ptr<Group> group_;
  std::vector<Peer> peers_;
  const uint64_t id_ = 0;                                     // of Call::group
  uint64_t calls_ = 0;                                        // of this group
  std::map<std::pair<int64_t, int64_t>, uint64_t> messages_;  // by sender and receiver
  std::shared_ptr<Shared> shared_;  // last: the watcher says goodbye before the connections close
};

}  // namespace unigrpo::parallel

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/world.h"

/// All that is used of LibTorch's c10d, which transport.cpp alone sees. What goes wrong here is a std::exception of
/// c10d's or Gloo's making; those who call say whose fault it is.
namespace unigrpo::parallel {

/// Texts by name that every rank sees, held by rank 0's process (or torchrun's agent). Calls may block for as long as
/// the network does, whatever time c10d was given: make them on a thread that can be left behind.
class Store {
 public:
  /// Opens or finds the store of this world. `patience_s`: for each call.
  Store(const World& world, double patience_s);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  void set(const std::string& key, const std::string& value);
  /// Sets it where it is not there yet; returns what stands.
  std::string claim(const std::string& key, const std::string& value);
  std::optional<std::string> find(const std::string& key);

 private:
  friend class Group;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A group of ranks that exchange bytes: those of the CPU over Gloo, those of a CUDA device over NCCL. Calls, blocking
/// where it is not said otherwise, are made by all ranks in one order; tensors are contiguous. A call over NCCL that
/// does not end in time takes its communicator with it.
class Group {
 public:
  struct Options {
    std::string name;
    int64_t rank = 0, size = 1;
    bool one_machine = false;      // then over the loopback interface alone
    double timeout_s = 300;        // of making it
    at::Device device = at::kCPU;  // CUDA: this rank's own
  };
  Group(Store& store, const Options& options);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  int64_t rank() const { return rank_; }
  int64_t size() const { return size_; }
  /// Beside the CPU; else the CPU itself.
  at::Device device() const { return device_; }

  /// Piece r of `in` (counts in bytes) goes to rank r; piece r of `out` comes from rank r. Both are uint8 vectors.
  void all_to_all(at::Tensor& out, const at::Tensor& in, std::vector<int64_t> out_counts,
                  std::vector<int64_t> in_counts, double timeout_s);
  void broadcast(at::Tensor& bytes, int64_t root, double timeout_s);

  /// An exchange under way; it keeps the tensors.
  class Exchange {
   public:
    virtual ~Exchange() = default;
    virtual void wait() = 0;
  };
  /// all_to_all without waiting; further calls may be made meanwhile, in the same order on all ranks.
  std::unique_ptr<Exchange> start_all_to_all(at::Tensor out, at::Tensor in, std::vector<int64_t> out_counts,
                                             std::vector<int64_t> in_counts, double timeout_s);
  /// Row r of `in` goes to rank r, row r of `out` comes from it; both [size x n] uint8, rows without gaps.
  std::unique_ptr<Exchange> start_swap(const at::Tensor& out, const at::Tensor& in, double timeout_s);
  /// `mine` of each rank, equally many bytes, goes to all: `all` has them in rank order.
  std::unique_ptr<Exchange> start_all_gather(at::Tensor all, at::Tensor mine, double timeout_s);
  /// Of this rank and another one alone: a uint8 vector to it (`sends`) or from it. What goes from one rank to another
  /// comes in the order in which it was sent.
  std::unique_ptr<Exchange> start_message(bool sends, at::Tensor bytes, int64_t other, double timeout_s);

 private:
  struct Impl;
  struct Transfers;
  void exchange_parts(Transfers& transfers, const std::vector<at::Tensor>& from,
                      const std::vector<at::Tensor>& to) const;

  int64_t rank_, size_;
  at::Device device_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace unigrpo::parallel

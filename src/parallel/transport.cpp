#include "parallel/transport.h"

#include <c10/util/Logging.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

#include "base/clock.h"

#ifdef USE_C10D_NCCL
#include <c10/cuda/CUDAGuard.h>

#include <thread>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace unigrpo::parallel {
namespace {

constexpr int kMessageTag = 0, kExchangeTag = 1;
constexpr int64_t kDirect_bytes = 1 << 20;

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3 + 0.999));
}

/// Over Gloo.
void wait_for(c10d::Work& work, double timeout_s) {
  if (!work.wait(milliseconds(timeout_s))) throw std::runtime_error("a message was aborted");
}

#ifdef USE_C10D_NCCL
/// What this process asks of NCCL, where its environment does not say otherwise: communicators that are used at once
/// keep one order on all ranks; no sums within switches, whose order is not ours.
void set_nccl_defaults() {
  constexpr int kKeep = 0;
  setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", kKeep);
  setenv("NCCL_COLLNET_ENABLE", "0", kKeep);
  setenv("NCCL_NVLS_ENABLE", "0", kKeep);
  setenv("TORCH_NCCL_BLOCKING_WAIT", "0", kKeep);
  setenv("TORCH_NCCL_ENABLE_MONITORING", "0", kKeep);  // ranks watch each other already, and end with a report
}

/// Over NCCL a host does not wait for a call: it is asked here until the device is done, so that a rank that does not
/// come is noticed in time, and c10d's own watch, which ends processes, has no reason to act.
void wait_for(c10d::ProcessGroupNCCL& group, c10d::Work& work, double timeout_s) {
  constexpr auto kPause = std::chrono::microseconds(20);
  const auto ends = std::chrono::steady_clock::now() + milliseconds(timeout_s);
  while (!work.isCompleted()) {
    if (std::chrono::steady_clock::now() > ends) {
      group.abort();  // or its kernel waits on the device for ever
      throw std::runtime_error(fmt::format("a call over NCCL did not end within {:g} s", timeout_s));
    }
    std::this_thread::sleep_for(kPause);
  }
  work.wait();  // throws what went wrong; later work of this stream comes after it
}
#endif

}  // namespace

struct Store::Impl {
  c10::intrusive_ptr<c10d::Store> store;
};

Store::Store(const World& world, double patience_s) : impl_(std::make_unique<Impl>()) {
  FLAGS_caffe2_log_level = c10::GLOG_ERROR;  // what c10d warns of with a stack is thrown as well, and told in one line
  c10d::TCPStoreOptions options;
  options.port = world.port;
  options.isServer = world.rank == 0 && !world.launcher_has_store;
  options.waitWorkers = false;  // the meeting waits, and knows for whom
  options.timeout = milliseconds(patience_s);
  options.masterListenFd = world.listen_fd;
  auto store = c10::make_intrusive<c10d::TCPStore>(world.address, options);
  // A torchrun keeps its store for all its restarts.
  impl_->store = c10::make_intrusive<c10d::PrefixStore>(fmt::format("unigrpo/{}/{}", world.run_id, world.restart),
                                                        std::move(store));
}

Store::~Store() = default;

void Store::set(const std::string& key, const std::string& value) { impl_->store->set(key, value); }

std::string Store::claim(const std::string& key, const std::string& value) {
  // With a value expected, a missing key is answered with that value and not set.
  return impl_->store->compareSet(key, "", value);
}

std::optional<std::string> Store::find(const std::string& key) {
  if (!impl_->store->check({key})) return std::nullopt;
  return impl_->store->get_to_str(key);
}

struct Group::Impl {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
#ifdef USE_C10D_NCCL
  c10::intrusive_ptr<c10d::ProcessGroupNCCL> nccl;  // where the group has a device
  c10d::Backend& of(const at::Tensor& tensor) const {
    return tensor.is_cuda() ? static_cast<c10d::Backend&>(*nccl) : *gloo;
  }
  void wait(c10d::Work& work, bool on_device, double timeout_s) const {
    if (on_device) {
      wait_for(*nccl, work, timeout_s);
    } else {
      wait_for(work, timeout_s);
    }
  }
#else
  c10d::Backend& of(const at::Tensor& /*tensor*/) const { return *gloo; }
  static void wait(c10d::Work& work, bool /*on_device*/, double timeout_s) { wait_for(work, timeout_s); }
#endif
};

/// Works under way, and their tensors.
struct Group::Transfers : Exchange {
  Transfers(const Impl& group_, at::Tensor out_, at::Tensor in_, double timeout_s_)
      : group(group_), out(std::move(out_)), in(std::move(in_)), timeout_s(timeout_s_) {}

  /// Of equal parts. Gloo's collectives copy each once more; its messages take longer to begin.
  bool goes_by_messages() const { return !in.is_cuda() && in.numel() >= kDirect_bytes; }
  /// `part`: a uint8 vector of either.
  void message(bool sends, const at::Tensor& part, int64_t other, int tag) {
    if (part.numel() == 0) return;
    std::vector<at::Tensor> tensors = {part};
    c10d::Backend& backend = group.of(part);
    const int rank = static_cast<int>(other);
    works.push_back(sends ? backend.send(tensors, rank, tag) : backend.recv(tensors, rank, tag));
  }
  /// Over Gloo the time begins here.
  void wait() override {
    const bool on_device = (out.defined() ? out : in).is_cuda();
    const Stopwatch watch;
    for (const auto& work : works) group.wait(*work, on_device, std::max(timeout_s - watch.seconds(), 1e-3));
  }

  const Impl& group;
  at::Tensor out, in;
  double timeout_s = 0;
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
};

Group::Group(Store& store, const Options& options)
    : rank_(options.rank), size_(options.size), device_(options.device), impl_(std::make_unique<Impl>()) {
  using c10d::ProcessGroupGloo;
  auto gloo = ProcessGroupGloo::Options::create(milliseconds(options.timeout_s));
  const char* const interface = std::getenv("GLOO_SOCKET_IFNAME");
  gloo->devices = {options.one_machine    ? ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                   : interface != nullptr ? ProcessGroupGloo::createDeviceForInterface(interface)
                                          : ProcessGroupGloo::createDefaultDevice()};
  impl_->gloo = c10::make_intrusive<ProcessGroupGloo>(
      c10::make_intrusive<c10d::PrefixStore>("group/" + options.name, store.impl_->store),
      static_cast<int>(options.rank), static_cast<int>(options.size), gloo);
#ifdef USE_C10D_NCCL
  if (!device_.is_cuda()) return;
  constexpr double kLongerThanOurs_s = 86400;
  set_nccl_defaults();
  const c10::cuda::CUDAGuard guard(device_);
  auto nccl = c10d::ProcessGroupNCCL::Options::create();
  nccl->timeout = milliseconds(kLongerThanOurs_s);
  impl_->nccl = c10::make_intrusive<c10d::ProcessGroupNCCL>(
      c10::make_intrusive<c10d::PrefixStore>("nccl/" + options.name, store.impl_->store),
      static_cast<int>(options.rank), static_cast<int>(options.size), nccl);
  impl_->nccl->eagerConnectSingleDevice(device_);
#endif
}

Group::~Group() = default;

void Group::all_to_all(at::Tensor& out, const at::Tensor& in, std::vector<int64_t> out_counts,
                       std::vector<int64_t> in_counts, double timeout_s) {
  start_all_to_all(out, in, std::move(out_counts), std::move(in_counts), timeout_s)->wait();
}

std::unique_ptr<Group::Exchange> Group::start_all_to_all(at::Tensor out, at::Tensor in, std::vector<int64_t> out_counts,
                                                         std::vector<int64_t> in_counts, double timeout_s) {
  auto transfers = std::make_unique<Transfers>(*impl_, std::move(out), std::move(in), timeout_s);
  c10d::AllToAllOptions options;
  options.timeout = milliseconds(timeout_s);
  transfers->works.push_back(
      impl_->of(transfers->out).alltoall_base(transfers->out, transfers->in, out_counts, in_counts, options));
  return transfers;
}

std::unique_ptr<Group::Exchange> Group::start_all_gather(at::Tensor all, at::Tensor mine, double timeout_s) {
  const auto num_ranks = static_cast<size_t>(size_);
  auto transfers = std::make_unique<Transfers>(*impl_, std::move(all), std::move(mine), timeout_s);
  if (transfers->in.is_cuda()) {
    c10d::AllgatherOptions options;
    options.timeout = milliseconds(timeout_s);
    transfers->works.push_back(impl_->of(transfers->out)._allgather_base(transfers->out, transfers->in, options));
  } else if (transfers->goes_by_messages()) {
    exchange_parts(*transfers, transfers->out.chunk(size_), {num_ranks, transfers->in});
  } else {  // Gloo's own goes from rank to rank
    const std::vector<int64_t> counts(num_ranks, transfers->in.numel());
    return start_all_to_all(transfers->out, transfers->in.repeat({size_}), counts, counts, timeout_s);
  }
  return transfers;
}

std::unique_ptr<Group::Exchange> Group::start_swap(const at::Tensor& out, const at::Tensor& in, double timeout_s) {
  auto transfers = std::make_unique<Transfers>(*impl_, out, in, timeout_s);
  if (!transfers->goes_by_messages()) {
    const std::vector<int64_t> counts(static_cast<size_t>(size_), in.size(1));
    return start_all_to_all(out.view({-1}), in.reshape({-1}), counts, counts, timeout_s);
  }
  exchange_parts(*transfers, out.unbind(), in.unbind());
  return transfers;
}

/// Each to another rank first.
void Group::exchange_parts(Transfers& transfers, const std::vector<at::Tensor>& from,
                           const std::vector<at::Tensor>& to) const {
  for (int64_t after = 1; after < size_; ++after) {
    const int64_t target = (rank_ + after) % size_, source = (rank_ - after + size_) % size_;
    transfers.message(/*sends=*/true, to[static_cast<size_t>(target)], target, kExchangeTag);
    transfers.message(/*sends=*/false, from[static_cast<size_t>(source)], source, kExchangeTag);
  }
  const auto own = static_cast<size_t>(rank_);
  from[own].copy_(to[own]);
}

std::unique_ptr<Group::Exchange> Group::start_message(bool sends, at::Tensor bytes, int64_t other, double timeout_s) {
  auto transfers = std::make_unique<Transfers>(*impl_, at::Tensor(), std::move(bytes), timeout_s);
  transfers->message(sends, transfers->in, other, kMessageTag);
  return transfers;
}

void Group::broadcast(at::Tensor& bytes, int64_t root, double timeout_s) {
  c10d::BroadcastOptions options;
  options.rootRank = root;
  options.timeout = milliseconds(timeout_s);
  std::vector<at::Tensor> tensors = {bytes};
  impl_->wait(*impl_->of(bytes).broadcast(tensors, options), bytes.is_cuda(), timeout_s);
}

}  // namespace unigrpo::parallel

#include "parallel/transport.h"

#include <c10/util/Logging.h>
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

namespace unigrpo::parallel {
namespace {

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3 + 0.999));
}

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
};

Group::Group(Store& store, const Options& options)
    : rank_(options.rank), size_(options.size), impl_(std::make_unique<Impl>()) {
  using c10d::ProcessGroupGloo;
  auto gloo = ProcessGroupGloo::Options::create(milliseconds(options.timeout_s));
  const char* const interface = std::getenv("GLOO_SOCKET_IFNAME");
  gloo->devices = {options.one_machine    ? ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                   : interface != nullptr ? ProcessGroupGloo::createDeviceForInterface(interface)
                                          : ProcessGroupGloo::createDefaultDevice()};
  impl_->gloo = c10::make_intrusive<ProcessGroupGloo>(
      c10::make_intrusive<c10d::PrefixStore>("group/" + options.name, store.impl_->store),
      static_cast<int>(options.rank), static_cast<int>(options.size), gloo);
}

Group::~Group() = default;

void Group::all_to_all(at::Tensor& out, const at::Tensor& in, std::vector<int64_t> out_counts,
                       std::vector<int64_t> in_counts, double timeout_s) {
  start_all_to_all(out, in, std::move(out_counts), std::move(in_counts), timeout_s)->wait();
}

std::unique_ptr<Group::Exchange> Group::start_all_to_all(at::Tensor out, at::Tensor in, std::vector<int64_t> out_counts,
                                                         std::vector<int64_t> in_counts, double timeout_s) {
  struct Started : Exchange {
    at::Tensor out, in;
    c10::intrusive_ptr<c10d::Work> work;
    void wait() override { work->wait(); }
  };
  c10d::AllToAllOptions options;
  options.timeout = milliseconds(timeout_s);
  auto started = std::make_unique<Started>();
  started->out = std::move(out);
  started->in = std::move(in);
  started->work = impl_->gloo->alltoall_base(started->out, started->in, out_counts, in_counts, options);
  return started;
}

void Group::broadcast(at::Tensor& bytes, int64_t root, double timeout_s) {
  c10d::BroadcastOptions options;
  options.rootRank = root;
  options.timeout = milliseconds(timeout_s);
  std::vector<at::Tensor> tensors = {bytes};
  impl_->gloo->broadcast(tensors, options)->wait();
}

}  // namespace unigrpo::parallel

#include "cli/ranks.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/signals.h"
#include "base/subprocess.h"
#include "cli/commands.h"
#include "parallel/comm.h"

namespace unigrpo::cli {
namespace {

using namespace std::chrono_literals;

constexpr double kForTheLauncher_s = 5;

/// For a rank that is there no more: nobody answers what the destructors of its run might ask. `launcher_sees`: its
/// launcher is about to end this rank.
[[noreturn]] void end_without_others(const std::string& line, bool launcher_sees, StopToken stop) {
  log::error(line);
  const Stopwatch watch;
  while (launcher_sees && !stop.requested() && watch.seconds() < kForTheLauncher_s) std::this_thread::sleep_for(20ms);
  std::fflush(nullptr);
  std::_Exit(static_cast<int>(ExitCode::try_again));
}

/// A rank that stopped or hangs is still there, and no launcher sees it.
bool launcher_sees(const std::optional<parallel::Verdict>& verdict) {
  using enum parallel::Verdict::Kind;
  return !verdict || verdict->kind == died || verdict->kind == failed;
}

Mesh mesh_of(const parallel::World& world) {
  Mesh mesh{.rank = world.rank, .world_size = world.size, .local_rank = world.local_rank};
  if (world.launched) mesh.restart = world.restart;
  return mesh;
}

parallel::Terms with_program(parallel::Terms terms) {
  const Build build = this_build();
  terms.same.insert(terms.same.begin(),
                    {{"the build", build.version + " " + build.commit}, {"LibTorch", build.libtorch}});
  const std::vector<std::string> arguments = process_arguments();
  terms.same.emplace_back("the command line",
                          fmt::format("{}\n", fmt::join(arguments.begin() + 1, arguments.end(), "\n")));
  return terms;
}

/// Ranks that share cores share them evenly, where neither the recipe nor OMP_NUM_THREADS says otherwise.
void share_cores(const Runtime& runtime) {
  if (runtime.threads > 0 || std::getenv("OMP_NUM_THREADS") != nullptr) return;
  const std::vector<parallel::Peer>& peers = runtime.comm->peers();
  const parallel::Peer& own = peers[static_cast<size_t>(runtime.mesh.rank)];
  const auto sharing = std::ranges::count_if(
      peers, [&](const parallel::Peer& peer) { return peer.host == own.host && peer.cpus == own.cpus; });
  at::set_num_threads(static_cast<int>(std::max<int64_t>(1, at::get_num_threads() / sharing)));
}

void check_backend(const Preparation& prepared) {
  using parallel::Backend;
  const bool on_cpu = prepared.runtime.device.is_cpu();
  if (prepared.backend == Backend::nccl && on_cpu) {
    throw BadInput(
        "parallel.backend: \"nccl\" is for GPUs, and policy.device is \"cpu\"; expected \"auto\" or \"gloo\"");
  }
  if (prepared.backend == Backend::gloo && !on_cpu) {
    throw BadInput("parallel.backend: \"gloo\" is for CPUs, and policy.device is \"{}\"; expected \"auto\" or \"nccl\"",
                   prepared.runtime.device.str());
  }
}

int run_on_several(const parallel::World& world, const Prepare& prepare,
                   const std::function<int(const Runtime&)>& work) {
  Preparation prepared;
  try {
    prepared = prepare(world);
    prepared.terms.device = prepared.runtime.device.str();
    check_backend(prepared);
    parallel::check_shape(prepared.shape, world.size);
  } catch (const std::exception& error) {
    prepared.terms.failure = describe_failure(error);
  }
  parallel::Comm::Options options{.deadlines = prepared.deadlines,
                                  .check_calls = std::getenv("UNIGRPO_CHECK_CALLS") != nullptr};
  Runtime& runtime = prepared.runtime;
  options.device = runtime.device;
  // On the watcher's thread, while this rank is in the middle of something.
  options.end_process = [stop = runtime.stop](const std::string& line, const parallel::Verdict& verdict) {
    end_without_others(line, launcher_sees(verdict), stop);
  };
  runtime.mesh = mesh_of(world);
  runtime.comm = parallel::meet(world, with_program(prepared.terms), options, runtime.stop);
  parallel::Comm& comm = *runtime.comm;
  comm.set_run_folder(prepared.run_folder);
  share_cores(runtime);
  try {
    runtime.groups = std::make_shared<parallel::Groups>(parallel::make_groups(runtime.comm, prepared.shape));
    if (prepared.closes_store) comm.close_store();
    const int code = work(runtime);
    comm.enter_end();
    comm.barrier("end");
    return code;
  } catch (const PeerLost& lost) {
    end_without_others(describe_failure(lost).line, launcher_sees(comm.verdict()), runtime.stop);
  } catch (const std::exception& error) {
    comm.failed(describe_failure(error).line);
    throw;
  }
}

}  // namespace

int run_on_ranks(const Prepare& prepare, const std::function<int(const Runtime&)>& work) {
  const parallel::World world = parallel::read_world();
  if (world.launched) signals::expect_from_parent();
  if (world.size > 1) return run_on_several(world, prepare, work);
  const Preparation prepared = prepare(world);
  Runtime runtime = prepared.runtime;
  runtime.mesh = mesh_of(world);
  if (!prepared.shape.layers.empty()) {  // they say more than how ranks are spread
    runtime.groups = std::make_shared<parallel::Groups>(
        parallel::Groups{.shape = {.layers = prepared.shape.layers, .plan_file = prepared.shape.plan_file}});
  }
  return work(runtime);
}

}  // namespace unigrpo::cli

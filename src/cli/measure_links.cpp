#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "base/clock.h"
#include "base/memory.h"
#include "cli/measure.h"
#include "parallel/comm.h"
#include "parallel/groups.h"
#include "runtime/ranks.h"

namespace unigrpo::cli {
namespace {

using parallel::Comm;

at::Tensor message(int64_t mb) { return at::ones({mb << 18}); }

/// This rank's group among those of `size` ranks, `stride` apart.
std::shared_ptr<Comm> group_of(const Runtime& runtime, int64_t size, int64_t stride) {
  const int64_t rank = runtime.mesh.rank, block = size * stride;
  const int64_t first = rank / block * block + rank % stride;
  return runtime.comm->subgroup(parallel::ranks_from(first, size, stride), fmt::format("{}x{}", size, stride));
}

/// One repetition: milliseconds of a call by the slowest rank.
std::function<double()> slowest(const Runtime& runtime, std::function<void()> call) {
  return [&runtime, call = std::move(call)] {
    runtime.comm->barrier("profile");
    const Stopwatch watch;
    call();
    const std::vector<double> ms = gather(runtime, watch.seconds() * 1e3, "profile times");
    return *std::ranges::max_element(ms);
  };
}

double all_reduce_ms(const Runtime& runtime, Comm& group, int64_t mb, const std::string& name, Samples& samples) {
  at::Tensor tensor = message(mb);
  return samples.median_of(name, slowest(runtime, [&] { group.all_reduce(tensor, "profile"); }));
}

double all_to_all_ms(const Runtime& runtime, Comm& group, int64_t mb, const std::string& name, Samples& samples) {
  const int64_t n = group.size(), share = (mb << 18) / n;
  const at::Tensor in = at::ones({n * share});
  at::Tensor out = at::empty_like(in);
  const std::vector<int64_t> counts(static_cast<size_t>(n), share);
  return samples.median_of(name, slowest(runtime, [&] { group.all_to_all(out, in, counts, counts, "profile"); }));
}

/// Each rank of the group sends to the next one, as the stages of a pipeline do.
double p2p_ms(const Runtime& runtime, Comm& group, int64_t mb, const std::string& name, Samples& samples) {
  const auto n = static_cast<size_t>(group.size()), rank = static_cast<size_t>(group.rank());
  std::vector<int64_t> in_counts(n, 0), out_counts(n, 0);
  if (rank + 1 < n) in_counts[rank + 1] = mb << 18;
  if (rank > 0) out_counts[rank - 1] = mb << 18;
  const at::Tensor in = at::ones({std::reduce(in_counts.begin(), in_counts.end())});
  at::Tensor out = at::empty({std::reduce(out_counts.begin(), out_counts.end())});
  return samples.median_of(name,
                           slowest(runtime, [&] { group.all_to_all(out, in, out_counts, in_counts, "profile"); }));
}

/// How much slower products or sums become where both run at once: the larger of the two slowdowns.
double measure_overlap(const Runtime& runtime, Samples& samples) {
  constexpr int64_t kMegabytes = 16, kSide = 512;
  const at::Tensor a = at::ones({kSide, kSide});
  const auto product = [&] { at::mm(a, a); };
  const double product_ms = samples.median_of("overlap: product alone", slowest(runtime, product));
  at::Tensor sum = message(kMegabytes);
  const double sum_ms =
      samples.median_of("overlap: sum alone", slowest(runtime, [&] { runtime.comm->all_reduce(sum, "profile"); }));
  const int64_t sums = std::clamp<int64_t>(static_cast<int64_t>(20 * product_ms / sum_ms), 5, 50);
  std::atomic<bool> done{false};
  double sums_ms = 0;
  runtime.comm->barrier("profile");
  const Stopwatch watch;
  std::thread communication([&] {  // the only one that makes calls meanwhile
    for (int64_t i = 0; i < sums; ++i) runtime.comm->all_reduce(sum, "profile");
    sums_ms = watch.seconds() * 1e3;
    done = true;
  });
  int64_t products = 0;
  while (!done) product(), ++products;
  communication.join();
  const double both_ms = watch.seconds() * 1e3;
  const double slower =
      std::max(both_ms / static_cast<double>(products) / product_ms, sums_ms / static_cast<double>(sums) / sum_ms);
  const std::vector<double> all = gather(runtime, slower, "profile overlap");
  return std::max(1.0, *std::ranges::max_element(all));
}

}  // namespace

planner::HardwareProfile measure_links(const Runtime& runtime, int64_t max_mb, Samples& samples) {
  const int64_t world = runtime.mesh.world_size;
  planner::HardwareProfile out;
  for (int64_t n = 2; n <= world; n = n < world ? std::min(2 * n, world) : world + 1) {
    if (world % n != 0) continue;
    const auto near = group_of(runtime, n, 1), far = n < world ? group_of(runtime, n, world / n) : near;
    for (int64_t mb = 1; mb <= max_mb; mb *= 2) {
      const auto name = [&](const char* kind) { return fmt::format("{} of {} ranks, {} MB", kind, n, mb); };
      out.allreduce[n].by_mb[static_cast<double>(mb)] = all_reduce_ms(runtime, *near, mb, name("all_reduce"), samples);
      out.all_to_all[n].by_mb[static_cast<double>(mb)] = all_to_all_ms(runtime, *near, mb, name("all_to_all"), samples);
      return_free_memory();  // a larger message fits in nothing that was freed
    }
    const double mb = out.allreduce[n].by_mb.rbegin()->first, near_ms = out.allreduce[n].by_mb.rbegin()->second;
    const auto whole_mb = static_cast<int64_t>(mb);
    const double volume_mb = 2 * mb * static_cast<double>(n - 1) / static_cast<double>(n);
    out.allreduce_gbps[{n, true}] = volume_mb / near_ms;
    if (n < world) {
      out.allreduce_gbps[{n, false}] =
          volume_mb / all_reduce_ms(runtime, *far, whole_mb,
                                    fmt::format("all_reduce of {} ranks far apart, {} MB", n, mb), samples);
    }
    out.p2p_gbps[n] = mb / p2p_ms(runtime, *far, whole_mb, fmt::format("{} stages, {} MB", n, mb), samples);
  }
  out.overlap = measure_overlap(runtime, samples);
  return out;
}

}  // namespace unigrpo::cli

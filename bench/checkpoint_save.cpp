// How long a save stops a training loop: written on the spot, and by a thread (checkpoint.async).
//
//   build/bin/bench_checkpoint_save FOLDER [megabytes] [repeats]
//
// FOLDER: on the disk that is meant, used and emptied again. Both ways in turn, in one process. A row: how; median time
// of the call and of the looks that follow until the checkpoint is there; the median time until it is; its spread; what
// a step of the loop (a matrix product) takes meanwhile, over what it takes alone.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/memory.h"
#include "checkpoint/save.h"

namespace {

using namespace unigrpo;

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

struct Times {
  std::vector<double> stopped, until_there, steps;  // seconds
};

class Loop {
 public:
  double step() {
    const double start = now_s();
    sum_ += at::mm(a_, a_)[0][0].item<double>();
    return now_s() - start;
  }

 private:
  at::Tensor a_ = at::rand({512, 512});
  double sum_ = 0;
};

void save_once(checkpoint::CheckpointStore& store, const checkpoint::Snapshot& snapshot, Loop& loop, Times& times) {
  const double start = now_s();
  store.save(snapshot);
  double stopped = now_s() - start;
  while (store.is_saving()) {
    times.steps.push_back(loop.step());
    const double look = now_s();
    store.poll();
    stopped += now_s() - look;
  }
  times.until_there.push_back(now_s() - start);
  times.stopped.push_back(stopped);
}

void row(const char* how, const Times& times, double alone) {
  const auto [low, high] = std::minmax_element(times.stopped.begin(), times.stopped.end());
  std::printf("%-10s %12.1f %12.1f %9.1f - %-9.1f %12.2f\n", how, median(times.stopped) * 1e3,
              median(times.until_there) * 1e3, *low * 1e3, *high * 1e3,
              times.steps.empty() ? 1.0 : median(times.steps) / alone);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: bench_checkpoint_save FOLDER [megabytes] [repeats]\n");
    return 2;
  }
  const std::filesystem::path folder = std::filesystem::path(argv[1]) / "bench_checkpoint_save";
  const int64_t megabytes = argc > 2 ? std::atoll(argv[2]) : 200;
  const int repeats = argc > 3 ? std::atoi(argv[3]) : 7;
  keep_freed_memory();
  at::set_num_threads(1);
  log::set_quiet(true);
  checkpoint::Snapshot snapshot;
  for (int64_t i = 0; i < 50; ++i) {
    snapshot.parts["optimizer"].push_back(
        {"layer_" + std::to_string(i), at::rand({megabytes * 5, 1000})});  // a fiftieth
  }
  Loop loop;
  std::vector<double> alone;
  for (int i = 0; i < 50; ++i) alone.push_back(loop.step());
  Times now, thread;
  {
    checkpoint::CheckpointStore sync(folder / "sync", {.keep_last = 1});
    checkpoint::CheckpointStore async(folder / "async", {.keep_last = 1, .async = true});
    for (int i = 0; i <= repeats; ++i) {  // the first one of each is not counted
      snapshot.step = i + 1;
      Times ignored;
      save_once(sync, snapshot, loop, i == 0 ? ignored : now);
      save_once(async, snapshot, loop, i == 0 ? ignored : thread);
    }
  }
  std::filesystem::remove_all(folder);
  std::printf("%lld MB, %d saves each, one thread\n%-10s %12s %12s %21s %12s\n", static_cast<long long>(megabytes),
              repeats, "save", "stops ms", "there ms", "stops from - to ms", "step ratio");
  row("on the spot", now, median(alone));
  row("async", thread, median(alone));
  std::printf("async stops the loop for %.3f of the time\n", median(thread.stopped) / median(now.stopped));
  return 0;
}

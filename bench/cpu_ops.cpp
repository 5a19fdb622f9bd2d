// Our CPU ops against the plain ATen composition that each replaces, both sides in one process, in turn.
//
//   build/bin/bench_cpu_ops [threads] [repeats]
//
// A row: op, shape, median time of ours and of ATen's, the ratio (above 1 = ours is faster), the largest difference.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "kernels/gather_log_prob.h"
#include "nn/gather_rows.h"
#include "nn/linear.h"
#include "nn/norm.h"

namespace {

using Run = std::function<at::Tensor()>;

double seconds_of(const Run& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void row(const std::string& op, const std::string& shape, const Run& ours, const Run& theirs, int repeats) {
  const double difference = (ours() - theirs()).abs().max().item<double>();
  std::vector<double> a, b;
  for (int i = 0; i < repeats; ++i) {
    a.push_back(seconds_of(ours));
    b.push_back(seconds_of(theirs));
  }
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  const double median_a = a[a.size() / 2] * 1e3, median_b = b[b.size() / 2] * 1e3;
  std::printf("%-24s %-24s %9.3f %9.3f %7.2f %9.1e\n", op.c_str(), shape.c_str(), median_a, median_b,
              median_b / median_a, difference);
}

/// Forward and backward of y = f(inputs): returns the gradient of sum(y * y) for the first input.
at::Tensor backward_of(const std::function<at::Tensor()>& forward, const std::vector<at::Tensor>& inputs) {
  for (const at::Tensor& input : inputs) input.mutable_grad() = at::Tensor();
  forward().square().sum().backward();
  return inputs.front().grad();
}

}  // namespace

int main(int argc, char** argv) {
  at::set_num_threads(argc > 1 ? std::atoi(argv[1]) : 1);
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 21;
  std::printf("%d thread(s), median of %d\n", at::get_num_threads(), repeats);
  std::printf("%-24s %-24s %9s %9s %7s %9s\n", "op", "shape", "ours ms", "ATen ms", "ratio", "max diff");
  for (const auto& [t, in, out] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {120, 128, 384}, {2400, 128, 128}, {2400, 128, 384}, {2400, 384, 128}, {512, 896, 896}}) {
    const at::Tensor x = at::randn({t, in}).set_requires_grad(true), w = at::randn({out, in}).set_requires_grad(true);
    const std::string shape = std::to_string(t) + " x " + std::to_string(in) + " -> " + std::to_string(out);
    const auto ours = [&] { return unigrpo::nn::linear(x, w, {}); };
    const auto theirs = [&] { return at::linear(x, w); };
    {
      const at::NoGradGuard no_grad;
      row("linear", shape, ours, theirs, repeats);
    }
    row("linear + backward", shape, [&] { return backward_of(ours, {x, w}); },
        [&] { return backward_of(theirs, {x, w}); }, repeats);
  }
  {
    const at::Tensor x = at::randn({2400, 128}).set_requires_grad(true), w = at::randn({128}).set_requires_grad(true);
    row("rms_norm + backward", "2400 x 128", [&] { return backward_of([&] { return unigrpo::nn::rms_norm(x, w, 1e-6); }, {x, w}); },
        [&] { return backward_of([&] { return x * at::rsqrt(x.square().mean(-1, true) + 1e-6) * w; }, {x, w}); },
        repeats);
  }
  {
    const at::Tensor pool = at::randn({1200, 64}).set_requires_grad(true);
    const at::Tensor index = at::randint(0, 1200, {12800}, at::kLong);
    row("gather_rows + backward", "1200 x 64 at 12800",
        [&] { return backward_of([&] { return unigrpo::nn::gather_rows(pool, index); }, {pool}); },
        [&] { return backward_of([&] { return pool.index_select(0, index); }, {pool}); }, repeats);
  }
  for (const int64_t vocabulary : {160, 32000}) {
    const at::Tensor logits = at::randn({256, vocabulary}).set_requires_grad(true);
    const at::Tensor ids = at::randint(0, vocabulary, {256}, at::kLong);
    row("gather_log_prob + backward", "256 x " + std::to_string(vocabulary),
        [&] { return backward_of([&] { return unigrpo::kernels::gather_log_prob(logits, ids, 1.0).log_probs; }, {logits}); },
        [&] {
          return backward_of([&] { return logits.log_softmax(-1).gather(1, ids.unsqueeze(1)).squeeze(1); }, {logits});
        },
        repeats);
  }
  return 0;
}

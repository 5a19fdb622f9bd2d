// Our CPU ops against the plain ATen composition that each replaces, both sides in one process, in turn.
//
//   build/bin/bench_cpu_ops [threads] [repeats]
//
// A row: op, shape, median time of ours and of ATen's, the ratio (above 1 = ours is faster), the largest difference.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "kernels/gather_log_prob.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/sample_tokens.h"
#include "nn/attention.h"

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
  std::printf("%-26s %-38s %9.3f %9.3f %7.2f %9.1e\n", op.c_str(), shape.c_str(), median_a, median_b,
              median_b / median_a, difference);
}

/// Sampling as it was: the library's exp in float64, an element after the other, over rows in parallel.
at::Tensor sample_plainly(const at::Tensor& logits, const at::Tensor& uniforms, double temperature) {
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  at::Tensor ids = at::empty({rows}, at::kLong);
  at::parallel_for(0, rows, std::max<int64_t>(1, 8192 / vocabulary), [&](int64_t begin, int64_t end) {
    std::vector<double> masses(vocabulary);
    for (int64_t row = begin; row < end; ++row) {
      const float* line = logits.const_data_ptr<float>() + row * vocabulary;
      double top = line[0] / temperature, total = 0, running = 0;
      for (int64_t i = 0; i < vocabulary; ++i) top = std::max(top, line[i] / temperature);
      for (int64_t i = 0; i < vocabulary; ++i) total += masses[i] = std::exp(line[i] / temperature - top);
      const double target = uniforms.const_data_ptr<double>()[row] * total;
      int64_t id = 0;
      while (id < vocabulary - 1 && (running += masses[id]) <= target) ++id;
      ids.mutable_data_ptr<int64_t>()[row] = id;
    }
  });
  return ids;
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
  std::printf("%-26s %-38s %9s %9s %7s %9s\n", "op", "shape", "ours ms", "ATen ms", "ratio", "max diff");
  for (const auto& [t, in, out] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {120, 128, 384}, {2400, 128, 128}, {2400, 128, 384}, {2400, 384, 128}, {512, 896, 896}}) {
    const at::Tensor x = at::randn({t, in}).set_requires_grad(true), w = at::randn({out, in}).set_requires_grad(true);
    const std::string shape = std::to_string(t) + " x " + std::to_string(in) + " -> " + std::to_string(out);
    const auto ours = [&] { return unigrpo::kernels::linear(x, w, {}); };
    const auto theirs = [&] { return at::linear(x, w); };
    {
      const at::NoGradGuard no_grad;
      row("linear", shape, ours, theirs, repeats);
    }
    row(
        "linear + backward", shape, [&] { return backward_of(ours, {x, w}); },
        [&] { return backward_of(theirs, {x, w}); }, repeats);
  }
  {
    const at::Tensor x = at::randn({2400, 128}).set_requires_grad(true), w = at::randn({128}).set_requires_grad(true);
    row(
        "rms_norm + backward", "2400 x 128",
        [&] { return backward_of([&] { return unigrpo::kernels::rms_norm(x, w, 1e-6); }, {x, w}); },
        [&] { return backward_of([&] { return x * at::rsqrt(x.square().mean(-1, true) + 1e-6) * w; }, {x, w}); },
        repeats);
  }
  for (const auto& [what, blocks, lq, lk, heads, kv_heads, dim] :
       std::vector<std::tuple<std::string, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t>>{
           {"decode", 120, 1, 60, 8, 4, 16}, {"draw", 120, 18, 60, 8, 4, 16}, {"train", 8, 64, 256, 14, 2, 64}}) {
    // Each block reads its own keys, its own tokens among them, with nothing masked: what the fused attention does
    // best.
    const at::Tensor q = at::randn({blocks * lq, heads, dim}).set_requires_grad(true);
    const at::Tensor k = at::randn({blocks * lk, kv_heads, dim}).set_requires_grad(true),
                     v = at::randn_like(k).set_requires_grad(true);
    std::vector<unigrpo::nn::QueryBlock> layout(blocks);
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t i = 0; i < lq; ++i) layout[b].queries.push_back(b * lq + i);
      for (int64_t i = 0; i < lk; ++i) layout[b].keys.push_back(b * lk + i);
      layout[b].causal = false;
    }
    const unigrpo::nn::AttentionLayout attention(layout, {}, blocks * lq, at::kFloat);
    const auto ours = [&] { return attention.attend(q, k, v); };
    const auto theirs = [&] {
      auto grouped = [&](const at::Tensor& x, int64_t length) {
        return x.view({blocks, length, -1, dim}).transpose(1, 2);
      };
      const at::Tensor out = at::scaled_dot_product_attention(grouped(q, lq), grouped(k, lk), grouped(v, lk), {}, 0.0,
                                                              false, std::nullopt, true);
      return out.transpose(1, 2).reshape_as(q);
    };
    const std::string shape = what + " " + std::to_string(blocks) + " x " + std::to_string(lq) + " x " +
                              std::to_string(lk) + ", " + std::to_string(heads) + " heads of " + std::to_string(dim);
    {
      const at::NoGradGuard no_grad;
      row("attention", shape, ours, theirs, repeats);
    }
    row(
        "attention + backward", shape, [&] { return backward_of(ours, {q, k, v}); },
        [&] { return backward_of(theirs, {q, k, v}); }, repeats);
  }
  for (const auto& [rows, vocabulary] : {std::pair<int64_t, int64_t>{144, 160}, {64, 151936}}) {
    const at::Tensor logits = at::randn({rows, vocabulary}) * 3, uniforms = at::rand({rows}, at::kDouble);
    row(
        "sample_tokens", std::to_string(rows) + " x " + std::to_string(vocabulary),
        [&, logits, uniforms] { return unigrpo::kernels::sample_tokens(logits, uniforms, 1.0); },
        [&, logits, uniforms] { return sample_plainly(logits, uniforms, 1.0); }, repeats);
  }
  for (const int64_t vocabulary : {160, 32000}) {
    const at::Tensor logits = at::randn({256, vocabulary}).set_requires_grad(true);
    const at::Tensor ids = at::randint(0, vocabulary, {256}, at::kLong);
    row(
        "gather_log_prob + backward", "256 x " + std::to_string(vocabulary),
        [&] {
          return backward_of([&] { return unigrpo::kernels::gather_log_prob(logits, ids, 1.0).log_probs; }, {logits});
        },
        [&] {
          return backward_of([&] { return logits.log_softmax(-1).gather(1, ids.unsqueeze(1)).squeeze(1); }, {logits});
        },
        repeats);
  }
  return 0;
}

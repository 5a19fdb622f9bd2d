// The CUDA kernels against the CPU reference; skipped where there is no device.
#include "kernels/gather_log_prob.h"
#include "kernels/keyed_random.h"
#include "kernels/sample_tokens.h"
#include "kernels/sde_step.h"
#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

using unigrpo::testing::close;

class CudaKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
    at::manual_seed(2);
  }
};

TEST_F(CudaKernels, SdeStepIsTheReference) {
  for (const auto& shape : {std::vector<int64_t>{1, 1, 1}, {3, 7, 5}, {4, 257, 64}, {0, 4, 4}}) {
    const at::Tensor x = at::randn(shape), v = at::randn(shape), n = at::randn(shape);
    const at::Tensor c = at::rand({shape[0], 3}, at::kDouble) + 0.2;
    for (const bool gaussian : {true, false}) {
      const auto [x_cpu, mean_cpu, log_prob_cpu] = sde_step(x, v, n, c, gaussian);
      const auto [x_gpu, mean_gpu, log_prob_gpu] = sde_step(x.cuda(), v.cuda(), n.cuda(), c.cuda(), gaussian);
      EXPECT_TRUE(close(x_gpu.cpu(), x_cpu, 1e-6, 1e-6));
      EXPECT_TRUE(close(mean_gpu.cpu(), mean_cpu, 1e-6, 1e-6));
      EXPECT_TRUE(close(log_prob_gpu.cpu(), log_prob_cpu, 1e-5, 1e-5));
      EXPECT_TRUE(at::equal(log_prob_gpu, sde_log_prob(x.cuda(), v.cuda(), x_gpu, c.cuda(), gaussian)));
    }
  }
}

TEST_F(CudaKernels, KeyedRandomNumbersAreTheCpus) {
  const RandomKey key{.key = 123456789012345ULL, .stream = 987654321ULL};
  for (const int64_t count : {1, 2, 3, 5, 4096, 100001}) {
    const at::Tensor normal_cpu = at::empty({count}, at::kFloat), uniform_cpu = at::empty({count}, at::kFloat);
    const at::Tensor normal_gpu = normal_cpu.cuda(), uniform_gpu = uniform_cpu.cuda();
    keyed_normal_(normal_cpu, key);
    keyed_normal_(normal_gpu, key);
    keyed_uniform_(uniform_cpu, key);
    keyed_uniform_(uniform_gpu, key);
    EXPECT_TRUE(close(normal_gpu.cpu(), normal_cpu, 1e-7, 2e-7)) << count;  // 1 ulp
    EXPECT_TRUE(at::equal(uniform_gpu.cpu(), uniform_cpu)) << count;
  }
}

TEST_F(CudaKernels, SampledTokensAreTheCpus) {
  for (const int64_t vocabulary : {1, 33, 256, 257, 50001, 151936}) {
    at::Tensor logits = at::randn({64, vocabulary}) * 4;
    if (vocabulary > 33) logits.select(1, 7).fill_(-INFINITY);
    const at::Tensor uniforms = at::rand({64}, at::kDouble);
    EXPECT_TRUE(
        at::equal(sample_tokens(logits.cuda(), uniforms.cuda(), 0.8).cpu(), sample_tokens(logits, uniforms, 0.8)))
        << vocabulary;
  }
}

TEST_F(CudaKernels, GatherLogProbIsTheReferenceWithItsGradient) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t vocabulary : {1, 33, 1100, 50001}) {
      const at::Tensor logits = (at::randn({5, vocabulary}) * 3).to(type);
      const at::Tensor ids = at::randint(0, vocabulary, {5}, at::kLong);
      const auto run = [&](at::Device device) {
        const at::Tensor leaf = logits.to(device).detach().requires_grad_();
        const auto out = gather_log_prob(leaf, ids.to(device), 0.8);
        const at::Tensor loss = (out.log_probs + 0.3 * out.entropy).sum();
        return std::tuple(out.log_probs.detach().cpu(), out.entropy.detach().cpu(),
                          torch::autograd::grad({loss}, {leaf}).at(0).cpu());
      };
      const auto [log_probs_cpu, entropy_cpu, grad_cpu] = run(at::kCPU);
      const auto [log_probs_gpu, entropy_gpu, grad_gpu] = run(at::kCUDA);
      EXPECT_TRUE(close(log_probs_gpu, log_probs_cpu, 1e-5, 1e-5)) << vocabulary;
      EXPECT_TRUE(close(entropy_gpu, entropy_cpu, 1e-5, 1e-5)) << vocabulary;
      EXPECT_TRUE(close(grad_gpu, grad_cpu, 1e-5, type == at::kFloat ? 1e-4 : 1e-2)) << vocabulary;
    }
  }
}

}  // namespace
}  // namespace unigrpo::kernels

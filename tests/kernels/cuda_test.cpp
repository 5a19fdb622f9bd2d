// The CUDA kernels against the CPU reference; skipped where there is no device.
#include "kernels/block_attention.h"
#include "kernels/gather_log_prob.h"
#include "kernels/keyed_random.h"
#include "kernels/sample_tokens.h"
#include "kernels/sde_step.h"
#include "kernels/varlen_attention.h"
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

TEST_F(CudaKernels, KeyedRowsAreTheCpus) {
  const at::Tensor rows = at::randint(-1000000, 1000000, {37}, at::kLong);
  for (const int64_t width : {1, 3, 8, 1001}) {
    const at::Tensor cpu = at::empty({37, width}, at::kFloat), gpu = cpu.cuda();
    keyed_uniform_rows_(cpu, rows, {.key = 7, .stream = 9});
    keyed_uniform_rows_(gpu, rows.cuda(), {.key = 7, .stream = 9});
    EXPECT_TRUE(at::equal(gpu.cpu(), cpu)) << width;
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

/// Rows that decode over a pool: 1 to 3 queries each, some that begin with the same keys.
std::vector<QueryBlock> decoding_blocks(const std::vector<int64_t>& lengths) {
  std::vector<QueryBlock> blocks;
  int64_t row = 0, slot = 0;
  std::vector<int64_t> prefix;
  for (int64_t i = 0; i < 300; ++i) prefix.push_back(slot++);
  for (size_t b = 0; b < lengths.size(); ++b) {
    QueryBlock block;
    block.causal = b % 3 != 0;
    if (b % 2 == 0) block.keys = prefix;
    for (int64_t i = 0; i < lengths[b]; ++i) block.keys.push_back(slot++);
    for (int64_t i = std::min<int64_t>(lengths[b], 1 + static_cast<int64_t>(b % 3)); i > 0; --i) {
      block.queries.push_back(row++);
    }
    blocks.push_back(std::move(block));
  }
  return blocks;
}

BlockIndex on_cuda(const BlockIndex& index) {
  return {index.queries.cuda(), index.query_start.cuda(), index.keys.cuda(), index.key_start.cuda(),
          index.causal.cuda()};
}

TEST_F(CudaKernels, BlockAttentionIsTheCpusAndARowsBitsAreItsOwn) {
  const std::vector<int64_t> lengths = {1, 2, 255, 256, 257, 700, 5, 1300};
  const std::vector<QueryBlock> blocks = decoding_blocks(lengths);
  const auto rows = blocks.back().queries.back() + 1, slots = blocks.back().keys.back() + 1;
  for (const auto& [heads, kv_heads, dim] : {std::tuple(4, 4, 16), std::tuple(14, 2, 64), std::tuple(28, 4, 128)}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor q = at::randn({rows, heads, dim}).to(type), k = at::randn({slots, kv_heads, dim}).to(type),
                       v = at::randn({slots, kv_heads, dim}).to(type);
      const at::Tensor want =
          block_attention(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), block_index(blocks));
      const at::Tensor got = block_attention(q.cuda(), k.cuda(), v.cuda(), on_cuda(block_index(blocks)));
      const double tolerance = type == at::kFloat ? 1e-5 : 1e-2;
      EXPECT_TRUE(close(got.cpu(), want, tolerance, tolerance));
      for (const QueryBlock& block : blocks) {
        const at::Tensor alone =
            block_attention(q.cuda(), k.cuda(), v.cuda(), on_cuda(block_index(std::span(&block, 1))));
        for (const int64_t row : block.queries) EXPECT_TRUE(at::equal(alone[row], got[row])) << row;
      }
    }
  }
}

TEST_F(CudaKernels, VarlenAttentionIsTheLoopWithItsGradient) {
  std::vector<QueryBlock> blocks;
  int64_t rows = 0;
  std::vector<int64_t> prefix;
  for (const auto& [count, causal] : {std::pair(40, true), std::pair(130, true), std::pair(66, false),
                                      std::pair(66, false), std::pair(1, true), std::pair(300, true)}) {
    QueryBlock block{{}, prefix, causal};
    for (int i = 0; i < count; ++i) block.queries.push_back(rows++);
    block.keys.insert(block.keys.end(), block.queries.begin(), block.queries.end());
    if (prefix.empty()) prefix = block.queries;
    blocks.push_back(std::move(block));
  }
  for (const auto& [heads, kv_heads, dim] : {std::tuple(4, 4, 12), std::tuple(14, 2, 64), std::tuple(28, 4, 128)}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor q = at::randn({rows, heads, dim}).to(type), k = at::randn({rows, kv_heads, dim}).to(type),
                       v = at::randn({rows, kv_heads, dim}).to(type), upstream = at::randn({rows, heads, dim}).to(type);
      auto run = [&](at::Device device, at::ScalarType as) {
        std::vector<at::Tensor> leaves;
        for (const at::Tensor& x : {q, k, v}) leaves.push_back(x.to(device, as).detach().requires_grad_());
        auto lists = block_lists(blocks);
        for (BlockList& list : lists) {
          for (at::Tensor* index : {&list.queries, &list.query_start, &list.keys, &list.key_start}) {
            *index = index->to(device);
          }
        }
        const at::Tensor out = varlen_attention(leaves[0], leaves[1], leaves[2], lists);
        auto all = torch::autograd::grad({(out * upstream.to(device, as)).sum()}, leaves);
        all.push_back(out.detach());
        for (at::Tensor& x : all) x = x.cpu();
        return all;
      };
      const auto got = run(at::kCUDA, type), want = run(at::kCPU, at::kFloat);
      const double tolerance = type == at::kFloat ? 1e-4 : 6e-2;  // sums of up to 340 products
      for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(close(got[i], want[i], tolerance, tolerance)) << i;
    }
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

#include "kernels/op.h"

#include "kernels/gather_log_prob.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/sample_tokens.h"
#include "kernels/sde_step.h"
#include "support/tensors.h"

namespace unigrpo::kernels {
namespace {

/// The meta device stands for one without loops of ours: it has shapes and gradients, and no numbers.
TEST(Ops, RunTheirReferenceOnABackendWithoutLoops) {
  const auto meta = at::TensorOptions(at::kMeta).dtype(at::kFloat);
  const auto leaf = [&](at::IntArrayRef shape) { return at::empty(shape, meta).requires_grad_(); };
  const at::Tensor ids = at::empty({3}, meta.dtype(at::kLong)),
                   coefficients = at::empty({3, 3}, meta.dtype(at::kDouble));
  const std::vector<at::Tensor> results = {
      linear(leaf({3, 8}), leaf({5, 8}), at::Tensor()), rms_norm(leaf({3, 8}), leaf({8}), 1e-6),
      apply_rotary(leaf({3, 2, 8}), {at::empty({3, 4}, meta), at::empty({3, 4}, meta)}),
      gather_log_prob(leaf({3, 8}), ids, 1.0).entropy,
      sde_log_prob(at::empty({3, 8}, meta), leaf({3, 8}), at::empty({3, 8}, meta), coefficients, true)};
  for (const at::Tensor& result : results) {
    EXPECT_TRUE(result.is_meta() && result.size(0) == 3);
    EXPECT_TRUE(result.requires_grad()) << result.sizes();
  }
  const at::NoGradGuard no_grad;
  EXPECT_EQ(rms_norm(leaf({3, 8}), leaf({8}), 1e-6).sizes(), at::IntArrayRef({3, 8}));
  EXPECT_EQ(sample_tokens(at::empty({3, 8}, meta), at::empty({3}, meta.dtype(at::kDouble)), 1.0).numel(), 3);
}

}  // namespace
}  // namespace unigrpo::kernels

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <string>
#include <vector>

#include "base/signals.h"
#include "policy/load.h"
#include "support/tiny_bagel.h"

namespace unigrpo::policy {
namespace {

/// The tiny Qwen2 model under a stop that a test can ask for.
class Stop : public ::testing::TestWithParam<bool> {
 protected:
  PolicyConfig config() const {
    PolicyConfig config;
    config.model = UNIGRPO_TEST_DATA "/qwen2_tiny";
    config.recompute = GetParam();
    return config;
  }
  Runtime runtime() { return {.stop = StopToken(signal_), .seed = 5}; }
  static TrainBatch batch() {
    TrainBatch batch{.prefixes = {{}}, .sequences = {{}}};
    batch.sequences[0].blocks.push_back(TextBlock{{400, 5, 6, 7, 8, 402}});
    return batch;
  }

  std::atomic<int> signal_ = 0;
};

TEST_P(Stop, IsSeenWhileWeightsAreRead) {
  signal_ = SIGTERM;
  EXPECT_THROW(load(config(), runtime()), Interrupted);
}

TEST_P(Stop, EndsAForwardAndTheNextOneIsAsIfNothingHadBeen) {
  const auto model = load(config(), runtime());
  const at::NoGradGuard no_grad;
  const at::Tensor before = model->forward_train(batch()).text_hidden;
  Context context;
  Context* const rows[] = {&context};
  const std::vector<std::vector<int64_t>> ids = {{400, 5, 6}};
  const at::Tensor logits = model->append_text(rows, ids);
  model->release(context);
  signal_ = SIGTERM;
  EXPECT_THROW(model->forward_train(batch()), Interrupted);
  Context cut;
  Context* const cut_rows[] = {&cut};
  EXPECT_THROW(model->append_text(cut_rows, ids), Interrupted);
  model->release(cut);
  signal_ = 0;
  EXPECT_TRUE(at::equal(model->forward_train(batch()).text_hidden, before));
  Context again;
  Context* const again_rows[] = {&again};
  EXPECT_TRUE(at::equal(model->append_text(again_rows, ids), logits));
}

TEST_P(Stop, EndsABackwardBetweenTwoLayersByItsOwnKindOfException) {
  const auto model = load(config(), runtime());
  // It comes when the last layer's gradient does; the first layer's must not come any more.
  const at::Tensor last = testing::parameter(*model, "model.layers.1.mlp.down_proj.weight");
  const at::Tensor first = testing::parameter(*model, "model.layers.0.self_attn.q_proj.weight");
  last.register_hook([this](const at::Tensor& /*grad*/) { signal_ = SIGTERM; });
  EXPECT_THROW(model->forward_train(batch()).text_hidden.square().sum().backward(), Interrupted);
  EXPECT_FALSE(first.grad().defined());
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutRecomputation, Stop, ::testing::Bool());

}  // namespace
}  // namespace unigrpo::policy

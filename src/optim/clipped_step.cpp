#include "optim/clipped_step.h"

#include "optim/sum_gradients.h"
#include "parallel/sharded_model.h"
#include "runtime/ranks.h"

namespace unigrpo::optim {
namespace {

/// Of all ranks' pieces, where there are some.
StepStats of_all(const Runtime& runtime, const StepStats& own, const parallel::ShardedModel* sharded) {
  if (!sharded) return own;
  const Values sums =
      summed(runtime, {{"bf16", static_cast<double>(own.num_bf16)}, {"lost", static_cast<double>(own.num_lost)}},
             "lost updates");
  return {.num_updated = own.num_updated,
          .num_bf16 = static_cast<int64_t>(sums.at("bf16")),
          .num_lost = static_cast<int64_t>(sums.at("lost"))};
}

}  // namespace

void clipped_step(AdamW& optimizer, GradClip& clip, const Runtime& runtime, double lr_factor,
                  std::map<std::string, double>& metrics, parallel::ShardedModel* sharded) {
  if (sharded) sharded->finish_gradients();
  sum_gradients(runtime, optimizer.parameters());
  const GradNorm norm = clip.check(optimizer.parameters(), runtime, sharded);
  if (!norm.skip) {
    const StepStats moved = of_all(runtime, optimizer.step(lr_factor, norm.scale), sharded);
    if (moved.num_bf16 > 0) metrics["optim/lost_updates"] += moved.lost_ratio();
    if (sharded) sharded->wrote();
  }
  drop_gradients(optimizer, sharded);
  metrics["optim/grad_norm"] += norm.norm;
}

void drop_gradients(AdamW& optimizer, parallel::ShardedModel* sharded) {
  optimizer.zero_grad();
  if (sharded) sharded->drop_gradients();
}

}  // namespace unigrpo::optim

#include "optim/clipped_step.h"

#include <vector>

#include "optim/sum_gradients.h"
#include "parallel/sharded_model.h"
#include "runtime/ranks.h"

namespace unigrpo::optim {
namespace {

/// Of all ranks' pieces, where there are some.
StepStats of_all(const Runtime& runtime, const StepStats& own, const parallel::ShardedModel* sharded) {
  if (!sharded) return own;
  StepStats all{.num_updated = own.num_updated};
  for (const auto& of_rank : gather(runtime, std::vector<int64_t>{own.num_bf16, own.num_lost}, "lost updates")) {
    all.num_bf16 += of_rank[0];
    all.num_lost += of_rank[1];
  }
  return all;
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

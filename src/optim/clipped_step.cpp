#include "optim/clipped_step.h"

#include "optim/sum_gradients.h"

namespace unigrpo::optim {

void clipped_step(AdamW& optimizer, GradClip& clip, const Runtime& runtime, double lr_factor,
                  std::map<std::string, double>& metrics) {
  sum_gradients(runtime, optimizer.parameters());
  const GradNorm norm = clip.check(optimizer.parameters(), runtime);
  if (!norm.skip) {
    const StepStats moved = optimizer.step(lr_factor, norm.scale);
    if (moved.num_bf16 > 0) metrics["optim/lost_updates"] += moved.lost_ratio();
  }
  optimizer.zero_grad();
  metrics["optim/grad_norm"] += norm.norm;
}

}  // namespace unigrpo::optim

#include "train/state_bytes.h"

namespace unigrpo::train {

int64_t state_bytes(Objective& objective, const NamedTensors& trained, const optim::AdamW& optimizer,
                    const optim::Ema& ema) {
  int64_t bytes = 0;
  const auto add = [&](const NamedTensors& tensors) {
    for (const NamedTensor& one : tensors) {
      if (one.tensor.storage().nbytes() < one.tensor.nbytes()) continue;  // another stage's
      bytes += static_cast<int64_t>(one.tensor.nbytes());
    }
  };
  NamedTensors whole;  // that train
  for (const NamedTensor& one : trained) {
    if (!one.piece) whole.push_back(one);
  }
  for (const NamedTensor& one : whole) bytes += one.tensor.numel() * static_cast<int64_t>(sizeof(float));  // gradients
  const parallel::ShardedModel* sharded = objective.sharded();
  if (sharded) bytes += sharded->gradient_bytes();
  if (sharded && sharded->shares_weights()) {
    bytes += sharded->weight_bytes();
    add(whole);
  } else {
    add(objective.policy() ? objective.policy()->parameters() : trained);
  }
  add(optimizer.state().tensors);
  add(ema.averages());
  return bytes;
}

}  // namespace unigrpo::train

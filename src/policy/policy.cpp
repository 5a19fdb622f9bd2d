#include "policy/policy.h"

#include <algorithm>
#include <stdexcept>

#include "kernels/linear.h"

namespace unigrpo::policy {

std::vector<int64_t> block_ids(const TextPolicy& policy, const std::string& text) {
  std::vector<int64_t> ids = {policy.bos_id()};
  for (const int64_t id : policy.tokenizer().encode(text)) ids.push_back(id);
  ids.push_back(policy.eos_id());
  return ids;
}

std::unique_ptr<StagedForward> UnifiedPolicy::staged_forward(const TrainBatch& /*batch*/) {
  throw std::logic_error("a model without stages");
}

void UnifiedPolicy::append_encoded(std::span<Context* const> /*rows*/, std::span<const Block> /*blocks*/) {
  throw std::invalid_argument("an encoded text: this family reads tokens");
}

bool is_small(const UnifiedPolicy& policy) {
  return std::ranges::all_of(policy.parameters(), [](const NamedTensor& weight) {
    const at::Tensor& tensor = weight.tensor;
    return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && kernels::is_narrow(tensor);
  });
}

}  // namespace unigrpo::policy

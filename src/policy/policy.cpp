#include "policy/policy.h"

namespace unigrpo::policy {

std::vector<int64_t> block_ids(const TextPolicy& policy, const std::string& text) {
  std::vector<int64_t> ids = {policy.bos_id()};
  for (const int64_t id : policy.tokenizer().encode(text)) ids.push_back(id);
  ids.push_back(policy.eos_id());
  return ids;
}

}  // namespace unigrpo::policy

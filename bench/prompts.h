#pragma once

#include <cstdint>
#include <vector>

#include "policy/policy.h"

namespace unigrpo::bench {

inline constexpr int64_t kPromptTokens = 16;

/// Contexts that have read a prompt of some ids.
inline std::vector<policy::Context> read_prompts(policy::TextPolicy& policy, int64_t rows) {
  std::vector<policy::Context> contexts(rows);
  std::vector<policy::Context*> pointers;
  std::vector<std::vector<int64_t>> ids(rows);
  for (int64_t i = 0; i < rows; ++i) {
    pointers.push_back(&contexts[i]);
    for (int64_t k = 0; k < kPromptTokens; ++k) ids[i].push_back((7 * i + 3 * k) % policy.tokenizer().vocab_size());
  }
  policy.append_text(pointers, ids);
  return contexts;
}

}  // namespace unigrpo::bench

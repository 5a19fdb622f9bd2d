#include "rollout/deal.h"

namespace unigrpo::rollout {

std::vector<SampleRange> whole_groups(const Deal& deal) {
  std::vector<SampleRange> ranges(static_cast<size_t>(deal.num_prompts));
  for (int64_t p = deal.rank; p < deal.num_prompts; p += deal.num_ranks) ranges[p].count = deal.group_size;
  return ranges;
}

std::vector<SampleRange> ranges_of(const Deal& deal) {
  if (!cuts_groups(deal) || deal.num_prompts == 0) return whole_groups(deal);
  std::vector<SampleRange> ranges(static_cast<size_t>(deal.num_prompts));
  const int64_t p = deal.rank % deal.num_prompts;
  const int64_t parts = (deal.num_ranks - 1 - p) / deal.num_prompts + 1, part = deal.rank / deal.num_prompts;
  const int64_t first = deal.group_size * part / parts, last = deal.group_size * (part + 1) / parts;
  ranges[p] = {.first = first, .count = last - first};
  return ranges;
}

}  // namespace unigrpo::rollout

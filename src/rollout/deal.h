#pragma once

#include <cstdint>
#include <vector>

#include "rollout/engine.h"

namespace unigrpo::rollout {

/// Which samples of a step are one rank's.
struct Deal {
  int64_t num_prompts = 0, group_size = 1;  // of the step
  int64_t rank = 0, num_ranks = 1;
  bool keeps_groups = false;  // whole, also where ranks outnumber prompts and some get none
};

/// [P]: group p goes whole to rank p mod D.
std::vector<SampleRange> whole_groups(const Deal& deal);

/// Whether groups are cut: where ranks outnumber prompts and groups need not stay whole.
inline bool cuts_groups(const Deal& deal) { return !deal.keeps_groups && deal.num_ranks > deal.num_prompts; }
/// [P]: then each group is cut, as evenly as it goes, among the ranks p, p + P, p + 2 P, ...; some may get nothing.
/// Else as whole_groups().
std::vector<SampleRange> ranges_of(const Deal& deal);

}  // namespace unigrpo::rollout

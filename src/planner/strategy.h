#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <string>
#include <vector>

namespace unigrpo::planner {

/// How the ranks of a stage share one layer. Its order is the order in which ties between plans are broken.
///
/// Ranks are numbered by the coordinates (pp, dp, tp, sp), the last fastest. tp and sp are never both above 1.
struct Strategy {
  int64_t pp = 1, tp = 1, sp = 1, dp = 1;
  int zero = 0;  // what the shard group (dp x sp) splits: 0 nothing, 1 moments, 2 and gradients, 3 and weights
  bool recompute = false;

  auto operator<=>(const Strategy&) const = default;
  int64_t ranks() const { return pp * tp * sp * dp; }
  int64_t split() const { return std::max(tp, sp); }  // ranks that share a sample
  int64_t shard_ranks() const { return dp * sp; }
};

/// "2-4*-8f-c-sp": stages, ranks a sample (with * above 1), replicas, f ZeRO-3, c recompute, sp Ulysses.
std::string short_name(const Strategy& strategy);

/// Ranks that agree on all other coordinates, by the coordinate that differs; each list sorted.
struct RankGroups {
  using Groups = std::vector<std::vector<int64_t>>;
  Groups tp, sp, dp, shard, pp;
};
RankGroups rank_groups(const Strategy& strategy);

/// Which strategies a search may use; 0: no limit of its own.
struct Space {
  bool dp = true, sdp = true, tp = true, sp = true, pp = true, recompute = true;
  int64_t max_tp = 0, max_pp = 0, max_sp = 0;
  bool powers_of_two = true;  // else every degree that divides
  bool zero1 = false;         // model U: moments (1), or moments and gradients (2), are split as well
};

/// Every strategy of `world` ranks in `stages` stages within the space, sorted. `heads`: what tp and sp must divide; 0
/// = anything. `default_zero`: what data parallelism splits where it is not ZeRO-3.
std::vector<Strategy> strategies(int64_t world, int64_t stages, const Space& space, int64_t heads, int default_zero);

}  // namespace unigrpo::planner

#include "planner/decision_tree.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace unigrpo::planner {
namespace {

/// Adds every sequence of levels whose degrees multiply to `ranks`, of kinds not in `used` (a bit each).
void grow(const TreeLimits& limits, int64_t ranks, unsigned used, TreeLeaf& leaf, std::vector<TreeLeaf>& out) {
  if (ranks == 1) {
    for (const bool recompute : {false, true}) {
      if (recompute && !limits.recompute) continue;
      leaf.recompute = recompute;
      out.push_back(leaf);
    }
    return;
  }
  for (const LevelKind kind : {LevelKind::dp, LevelKind::sdp, LevelKind::tp}) {
    const auto bit = [](LevelKind k) { return 1U << static_cast<unsigned>(k); };
    if (used & bit(kind)) continue;
    if (limits.prune && ((kind == LevelKind::dp && (used & bit(LevelKind::sdp))) ||
                         (kind == LevelKind::sdp && (used & bit(LevelKind::dp))))) {
      continue;
    }
    for (int64_t degree = 2; degree <= ranks; degree *= 2) {
      if (kind == LevelKind::tp && degree > limits.max_tp) break;
      leaf.levels.push_back({kind, degree});
      grow(limits, ranks / degree, used | bit(kind), leaf, out);
      leaf.levels.pop_back();
    }
  }
}

}  // namespace

std::vector<TreeLeaf> decision_tree(const TreeLimits& limits) {
  if (limits.ranks < 1 || limits.ranks > (1 << 20) || !std::has_single_bit(static_cast<uint64_t>(limits.ranks))) {
    throw BadInput("ranks of a decision tree must be a power of two of at most 2^20, got {}", limits.ranks);
  }
  std::vector<TreeLeaf> out;
  for (int64_t pp = 1; pp <= std::min(limits.ranks, limits.max_pp); pp *= 2) {
    TreeLeaf leaf{.pp = pp, .levels = {}, .recompute = false};
    grow(limits, limits.ranks / pp, 0, leaf, out);
  }
  std::ranges::sort(out);
  return out;
}

}  // namespace unigrpo::planner

#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo::planner {

UNIGRPO_ENUM(LevelKind, dp, sdp, tp);

/// One way of splitting a model's ranks: the pipeline outermost, then levels within a stage, outermost first.
///
/// A stage's ranks are mixed-radix numbers whose last level is fastest: a last tp is on neighbouring ranks. A leaf's
/// order is the order of the tree. Source: Galvatron (arXiv 2211.13878), decision trees; BMW (2307.02031).
struct TreeLeaf {
  struct Level {
    LevelKind kind = LevelKind::dp;
    int64_t degree = 2;
    auto operator<=>(const Level&) const = default;
  };
  int64_t pp = 1;
  std::vector<Level> levels;
  bool recompute = false;
  auto operator<=>(const TreeLeaf&) const = default;
};

struct TreeLimits {
  int64_t ranks = 1;  // a power of two
  int64_t max_pp = 1, max_tp = 1;
  bool prune = true;       // no plain data parallelism beside sharded in one leaf
  bool recompute = false;  // every leaf twice, without and with
};

/// All leaves, sorted. Each kind at most once a leaf, degrees powers of two from 2. Throws BadInput unless ranks is a
/// power of two of at most 2^20.
std::vector<TreeLeaf> decision_tree(const TreeLimits& limits);

}  // namespace unigrpo::planner

#include "planner/strategy.h"

#include <fmt/format.h>

#include <bit>

namespace unigrpo::planner {

std::string short_name(const Strategy& s) {
  return fmt::format("{}-{}{}-{}{}{}{}", s.pp, s.split(), s.split() > 1 ? "*" : "", s.dp, s.zero == 3 ? "f" : "",
                     s.recompute ? "-c" : "", s.sp > 1 ? "-sp" : "");
}

RankGroups rank_groups(const Strategy& s) {
  // rank = ((pp * DP + dp) * TP + tp) * SP + sp
  RankGroups out;
  const auto rank = [&](int64_t pp, int64_t dp, int64_t tp, int64_t sp) {
    return ((pp * s.dp + dp) * s.tp + tp) * s.sp + sp;
  };
  for (int64_t pp = 0; pp < s.pp; ++pp) {
    for (int64_t dp = 0; dp < s.dp; ++dp) {
      for (int64_t sp = 0; sp < s.sp; ++sp) {
        auto& group = out.tp.emplace_back();
        for (int64_t tp = 0; tp < s.tp; ++tp) group.push_back(rank(pp, dp, tp, sp));
      }
      for (int64_t tp = 0; tp < s.tp; ++tp) {
        auto& group = out.sp.emplace_back();
        for (int64_t sp = 0; sp < s.sp; ++sp) group.push_back(rank(pp, dp, tp, sp));
      }
    }
    for (int64_t tp = 0; tp < s.tp; ++tp) {
      auto& shard = out.shard.emplace_back();
      for (int64_t sp = 0; sp < s.sp; ++sp) {
        auto& group = out.dp.emplace_back();
        for (int64_t dp = 0; dp < s.dp; ++dp) group.push_back(rank(pp, dp, tp, sp));
        shard.insert(shard.end(), group.begin(), group.end());
      }
      std::ranges::sort(shard);
    }
  }
  for (int64_t place = 0; place < s.dp * s.tp * s.sp; ++place) {
    auto& group = out.pp.emplace_back();
    for (int64_t pp = 0; pp < s.pp; ++pp) group.push_back(pp * s.dp * s.tp * s.sp + place);
  }
  for (auto* groups : {&out.tp, &out.sp, &out.dp, &out.shard, &out.pp}) std::ranges::sort(*groups);
  return out;
}

std::vector<Strategy> strategies(int64_t world, int64_t stages, const Space& space, int64_t heads, int default_zero) {
  std::vector<Strategy> out;
  const int64_t ranks = world / stages;
  const auto degree_fits = [&](int64_t t, int64_t most) {
    return ranks % t == 0 && (most == 0 || t <= most) && (heads == 0 || heads % t == 0) &&
           (!space.powers_of_two || std::has_single_bit(static_cast<uint64_t>(t)));
  };
  const auto add = [&](int64_t tp, int64_t sp) {
    const int64_t dp = ranks / (tp * sp);
    std::vector<int> zeros;
    if (dp == 1 || space.dp) zeros.push_back(dp == 1 ? 0 : default_zero);
    if (dp * sp > 1 && space.zero1 && space.dp) zeros.push_back(1);
    if (dp > 1 && space.sdp) zeros.push_back(3);
    for (const int zero : zeros) {
      for (const bool recompute : {false, true}) {
        if (recompute && !space.recompute) continue;
        out.push_back({.pp = stages, .tp = tp, .sp = sp, .dp = dp, .zero = zero, .recompute = recompute});
      }
    }
  };
  for (int64_t t = 1; t <= ranks; ++t) {
    if (t == 1 || (space.tp && degree_fits(t, space.max_tp))) add(t, 1);
    if (t > 1 && space.sp && degree_fits(t, space.max_sp)) add(1, t);
  }
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

}  // namespace unigrpo::planner

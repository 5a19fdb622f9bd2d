// What no schedule of waves can undercut.
#include <algorithm>
#include <cmath>

#include "planner/numbers.h"
#include "planner/wave_search.h"

namespace unigrpo::planner {
namespace {

/// How long an op runs and the rank-ms that it takes so, from the cheapest on: the lower convex hull of its sizes.
struct Allotment {
  double ms, area;
};
std::vector<Allotment> allotments(const WaveShape& shape, size_t m) {
  const auto layers = static_cast<double>(shape.ops[m].layers);
  std::vector<Allotment> all;
  for (const WaveShape::Size& size : shape.sizes[m]) {
    all.push_back({layers * size.ms, layers * size.ms * static_cast<double>(size.ranks)});
  }
  std::ranges::sort(
      all, [](const Allotment& a, const Allotment& b) { return a.area != b.area ? a.area < b.area : a.ms < b.ms; });
  std::vector<Allotment> hull;
  for (const Allotment& next : all) {
    if (!hull.empty() && next.ms >= hull.back().ms) continue;
    const auto price = [](const Allotment& a, const Allotment& b) { return (b.area - a.area) / (a.ms - b.ms); };
    while (hull.size() > 1 && price(hull[hull.size() - 2], hull.back()) >= price(hull.back(), next)) hull.pop_back();
    hull.push_back(next);
  }
  return hull;
}

/// An arc of the residual network: a further unit of flow through it is worth `ms`.
struct Arc {
  size_t from, to;
  double ms, room;
};

}  // namespace

// Each op m runs d_m ms in all and takes a_m(d_m) rank-ms, a convex falling function. A schedule of C ms has every path
// within C and all areas within N C. By weights p of paths, as a flow of value p over the graph with f_m through op m:
//
//   C (p + N) >= sum_m min_d [ f_m d + a_m(d) ]
//
// The right side is concave in f, so that longest augmenting paths find the best flow of each value (the time-cost
// trade-off of Fulkerson and Kelley); the bound rises while the path is longer than it.
double allotment_bound(const WaveShape& shape) {
  const size_t count = shape.ops.size(), source = 2 * count,
               sink = source + 1;  // op m: 2 m is before it, 2 m + 1 after
  std::vector<Arc> arcs;           // one and its reverse are neighbours
  const auto add = [&](size_t from, size_t to, double ms, double room) {
    arcs.push_back({from, to, ms, room});
    arcs.push_back({to, from, -ms, 0});
  };
  double areas = 0;
  for (size_t m = 0; m < count; ++m) {
    const std::vector<Allotment> hull = allotments(shape, m);
    areas += hull.front().area;
    double so_far = 0;
    for (size_t k = 0; k < hull.size(); ++k) {
      const double until =
          k + 1 < hull.size() ? (hull[k + 1].area - hull[k].area) / (hull[k].ms - hull[k + 1].ms) : kInfinity;
      add(2 * m, 2 * m + 1, hull[k].ms, until - so_far);
      so_far = until;
    }
    if (shape.ops[m].deps.empty()) add(source, 2 * m, 0, kInfinity);
    if (shape.users[m].empty()) add(2 * m + 1, sink, 0, kInfinity);
    for (const size_t user : shape.users[m]) add(2 * m + 1, 2 * user, 0, kInfinity);
  }
  double flow = 0, bound = areas / static_cast<double>(shape.num_ranks);
  std::vector<double> longest(sink + 1);
  std::vector<size_t> by(sink + 1);
  for (size_t step = 0; step < 4 * arcs.size(); ++step) {
    std::ranges::fill(longest, -kInfinity);
    longest[source] = 0;
    bool changed = true;
    for (size_t round = 0; changed && round <= sink; ++round) {
      changed = false;
      for (size_t i = 0; i < arcs.size(); ++i) {
        const Arc& arc = arcs[i];
        if (arc.room <= 1e-9 || longest[arc.from] + arc.ms <= longest[arc.to] + 1e-9) continue;
        longest[arc.to] = longest[arc.from] + arc.ms;
        by[arc.to] = i;
        changed = true;
      }
    }
    if (longest[sink] <= bound || changed) break;
    double room = kInfinity;
    for (size_t at = sink; at != source; at = arcs[by[at]].from) room = std::min(room, arcs[by[at]].room);
    if (room == kInfinity) return longest[sink];  // a path of nothing but the quickest: more weight on it alone
    for (size_t at = sink; at != source; at = arcs[by[at]].from)
      arcs[by[at]].room -= room, arcs[by[at] ^ 1].room += room;
    flow += room;
    areas += room * longest[sink];
    bound = std::max(bound, areas / (flow + static_cast<double>(shape.num_ranks)));
  }
  return bound;
}

}  // namespace unigrpo::planner

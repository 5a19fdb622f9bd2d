#include "planner/cluster.h"

#include <algorithm>
#include <iterator>
#include <optional>

namespace unigrpo::planner {
namespace {

/// Gathers and scattered sums move what all-to-all does, and a sum is both, one after the other.
std::optional<double> measured_ms(const Cluster& cluster, Collective kind, int64_t ranks, double megabytes) {
  const auto sum = cluster.all_reduce_ms.find(ranks), exchange = cluster.all_to_all_ms.find(ranks);
  if (sum == cluster.all_reduce_ms.end() || exchange == cluster.all_to_all_ms.end()) return std::nullopt;
  const double all = sum->second.at(megabytes), moved = exchange->second.at(megabytes);
  switch (kind) {
    case Collective::all_reduce:
      return all;
    case Collective::reduce_scatter:
      return std::max(moved, all - moved);
    case Collective::all_gather:
    case Collective::all_to_all:
      break;
  }
  return moved;
}

}  // namespace

double MeasuredTimes::at(double megabytes) const {
  const auto next = by_mb.lower_bound(megabytes);
  if (next == by_mb.end()) return by_mb.rbegin()->second * megabytes / by_mb.rbegin()->first;
  const auto& [x1, y1] = next == by_mb.begin() ? *std::next(next) : *next;
  const auto& [x0, y0] = next == by_mb.begin() ? *next : *std::prev(next);
  const double line = y0 + (y1 - y0) * (megabytes - x0) / (x1 - x0);
  return std::max(line, next->second * megabytes / next->first);
}

// n ranks, stride apart, of which r in a node of G; S = MB at each rank:
//
//   r = min(n, G) at stride 1, else min(n, max(1, G / stride))
//   r = n: bw = intra, lat = intra;   else bw = min(intra (r > 1), node / (G / r)), lat = inter
//   all_reduce  2 (n-1) (S/n/bw + lat);   all_gather, reduce_scatter  (n-1) (S/n/bw + lat)
//   all_to_all  within a node as all_gather, else max((r-1)/n S/intra, (n-r)/n S G/node) + (n-1) lat
//
// G / r (whole numbers): the groups that share a node's link.
double collective_ms(const Cluster& cluster, Collective kind, GroupPlace group, double megabytes) {
  const int64_t n = group.ranks, gpus = cluster.gpus_per_node;
  if (n <= 1) return 0;
  const int64_t r = group.stride == 1 ? std::min(n, gpus) : std::min(n, std::max<int64_t>(1, gpus / group.stride));
  const bool one_node = r == n;
  if (one_node) {
    if (const std::optional<double> measured = measured_ms(cluster, kind, n, megabytes)) return *measured;
  }
  const double latency = (one_node ? cluster.intra_latency_us : cluster.inter_latency_us) / 1000;
  const double ranks = static_cast<double>(n), near = static_cast<double>(r);
  if (kind == Collective::all_to_all && !one_node) {
    const double inside = (near - 1) / ranks * megabytes / cluster.intra_gbps;
    const double outside = (ranks - near) / ranks * megabytes * static_cast<double>(gpus) / cluster.node_gbps;
    return std::max(inside, outside) + (ranks - 1) * latency;
  }
  double bandwidth = cluster.intra_gbps;
  if (!one_node) {
    const double share = cluster.node_gbps / static_cast<double>(gpus / r);
    bandwidth = r > 1 ? std::min(cluster.intra_gbps, share) : share;
  }
  const double rounds = (kind == Collective::all_reduce ? 2 : 1) * (ranks - 1);
  return rounds * (megabytes / ranks / bandwidth + latency);
}

double p2p_ms(const Cluster& cluster, int64_t stride, double megabytes) {
  const auto measured = cluster.stage_gbps.find(cluster.world() / stride);
  if (cluster.nodes == 1 && measured != cluster.stage_gbps.end()) return megabytes / measured->second;
  if (stride < cluster.gpus_per_node) return megabytes / cluster.intra_gbps + cluster.intra_latency_us / 1000;
  // Every rank of the node sends at once.
  return megabytes * static_cast<double>(cluster.gpus_per_node) / cluster.node_gbps + cluster.inter_latency_us / 1000;
}

}  // namespace unigrpo::planner

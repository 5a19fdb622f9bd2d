#include "planner/cluster.h"

#include <algorithm>

namespace unigrpo::planner {

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
  if (stride < cluster.gpus_per_node) return megabytes / cluster.intra_gbps + cluster.intra_latency_us / 1000;
  // Every rank of the node sends at once.
  return megabytes * static_cast<double>(cluster.gpus_per_node) / cluster.node_gbps + cluster.inter_latency_us / 1000;
}

}  // namespace unigrpo::planner

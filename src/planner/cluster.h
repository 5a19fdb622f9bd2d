#pragma once

#include <cstdint>
#include <string>

#include "base/enum_names.h"

namespace unigrpo::planner {

/// A machine of equal nodes; what a cluster file says (bandwidths in GB/s, used as MB/ms).
struct Cluster {
  int64_t nodes = 1, gpus_per_node = 8;
  double memory_gib = 80;
  double intra_gbps = 160;  // bus bandwidth within a node
  double node_gbps = 45;    // out of a node, all its ranks together
  double intra_latency_us = 8, inter_latency_us = 25;

  int64_t world() const { return nodes * gpus_per_node; }
};

UNIGRPO_ENUM(Collective, all_reduce, all_gather, reduce_scatter, all_to_all);

/// A group of ranks, `stride` apart.
struct GroupPlace {
  int64_t ranks = 1, stride = 1;
};

/// Milliseconds of a collective of `megabytes` at each rank, all groups of its kind running at once and sharing the
/// links out of their nodes.
double collective_ms(const Cluster& cluster, Collective kind, GroupPlace group, double megabytes);

/// Milliseconds of a message from a rank to the one `stride` further.
double p2p_ms(const Cluster& cluster, int64_t stride, double megabytes);

}  // namespace unigrpo::planner

#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/enum_names.h"
#include "planner/numbers.h"

namespace unigrpo::planner {

/// Milliseconds of an exchange by MB at each rank, as measured.
struct MeasuredTimes {
  std::map<double, double> by_mb;  // two sizes or more
  /// Between two sizes, and below the smallest, along a line; never quicker a byte than the next size; above the
  /// largest in proportion.
  double at(double megabytes) const;
};

/// A machine of equal nodes; what a cluster file says (bandwidths in GB/s, used as MB/ms).
struct Cluster {
  int64_t nodes = 1, gpus_per_node = 8;
  double memory_gib = 80;
  double intra_gbps = 160;  // bus bandwidth within a node
  double node_gbps = 45;    // out of a node, all its ranks together
  double intra_latency_us = 8, inter_latency_us = 25;
  double context_mib = kContextMb;  // of a rank's memory, for its device's runtime
  // Of a profiled machine, by ranks of a node: what stands in place of the figures above.
  std::map<int64_t, MeasuredTimes> all_reduce_ms = {}, all_to_all_ms = {};
  std::map<int64_t, double> stage_gbps = {};  // from one of so many stages to the next

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

#pragma once

#include <filesystem>

#include "planner/cluster.h"

namespace unigrpo::cli {

/// Reads a cluster file (TOML: nodes, gpus_per_node, memory_gib, intra_gbps, node_gbps, intra_latency_us,
/// inter_latency_us; what is absent keeps its default). Throws BadInput `file:line:column: key: ...`.
planner::Cluster read_cluster(const std::filesystem::path& file);

}  // namespace unigrpo::cli

#include "cli/cluster_file.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "recipe/document.h"

namespace unigrpo::cli {
namespace {

using planner::Cluster;

/// A key of the file; one of both is there.
struct Key {
  std::string_view name;
  int64_t Cluster::*count = nullptr;
  double Cluster::*size = nullptr;
};
constexpr std::array kKeys = {
    Key{"nodes", &Cluster::nodes},
    Key{"gpus_per_node", &Cluster::gpus_per_node},
    Key{"memory_gib", nullptr, &Cluster::memory_gib},
    Key{"intra_gbps", nullptr, &Cluster::intra_gbps},
    Key{"node_gbps", nullptr, &Cluster::node_gbps},
    Key{"intra_latency_us", nullptr, &Cluster::intra_latency_us},
    Key{"inter_latency_us", nullptr, &Cluster::inter_latency_us},
    Key{"context_mib", nullptr, &Cluster::context_mib},
};

std::string unknown(const std::string& key) {
  std::vector<std::string> keys;
  for (const Key& known : kKeys) keys.emplace_back(known.name);
  const std::string close = nearest(key, keys);
  return "unknown key" + (close.empty() ? "" : fmt::format(", did you mean '{}'?", close));
}

/// Returns what is wrong with it; empty: nothing.
std::string set(Cluster& cluster, const Key& key, const recipe::Node& node) {
  const auto* whole = std::get_if<int64_t>(&node.value);
  if (key.count != nullptr) {
    if (whole == nullptr || *whole < 1 || *whole > 100'000) {
      return "must be a whole number from 1 to 100000, got " + recipe::describe(node);
    }
    cluster.*key.count = *whole;
    return "";
  }
  const auto* real = std::get_if<double>(&node.value);
  const double value = whole ? static_cast<double>(*whole) : real ? *real : -1;
  const bool may_be_0 = key.name.ends_with("_us") || key.size == &Cluster::context_mib;
  if (!std::isfinite(value) || value < 0 || (value == 0 && !may_be_0)) {
    return fmt::format("must be a finite number {}, got {}", may_be_0 ? "of at least 0" : "above 0",
                       recipe::describe(node));
  }
  cluster.*key.size = value;
  return "";
}

}  // namespace

Cluster read_cluster(const std::filesystem::path& file) {
  Cluster cluster;
  const std::string name = file.string();
  for (const recipe::Entry& entry : recipe::read_document(io::read_text_file(file, recipe::kMaxDocumentBytes), name)) {
    const auto key = std::ranges::find(kKeys, std::string_view(entry.key), &Key::name);
    const std::string wrong = key == kKeys.end() ? unknown(entry.key) : set(cluster, *key, entry.node);
    if (wrong.empty()) continue;
    throw BadInput("{}:{}:{}: {}: {}", name, entry.at.line, entry.at.column, recipe::key_part(entry.key), wrong);
  }
  return cluster;
}

}  // namespace unigrpo::cli

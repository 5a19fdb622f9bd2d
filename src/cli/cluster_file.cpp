#include "cli/cluster_file.h"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "recipe/document.h"

namespace unigrpo::cli {

planner::Cluster read_cluster(const std::filesystem::path& file) {
  planner::Cluster out;
  const std::map<std::string, int64_t*> counts = {{"nodes", &out.nodes}, {"gpus_per_node", &out.gpus_per_node}};
  const std::map<std::string, double*> sizes = {{"memory_gib", &out.memory_gib},
                                                {"intra_gbps", &out.intra_gbps},
                                                {"node_gbps", &out.node_gbps},
                                                {"intra_latency_us", &out.intra_latency_us},
                                                {"inter_latency_us", &out.inter_latency_us}};
  const std::string name = file.string();
  for (const recipe::Entry& entry : recipe::read_document(io::read_text_file(file, recipe::kMaxDocumentBytes), name)) {
    const auto fail = [&](const std::string& what) {
      return BadInput("{}:{}:{}: {}: {}", name, entry.at.line, entry.at.column, recipe::key_part(entry.key), what);
    };
    if (const auto count = counts.find(entry.key); count != counts.end()) {
      const auto* value = std::get_if<int64_t>(&entry.node.value);
      if (value == nullptr || *value < 1 || *value > 100'000) {
        throw fail("must be a whole number from 1 to 100000, got " + recipe::describe(entry.node));
      }
      *count->second = *value;
    } else if (const auto size = sizes.find(entry.key); size != sizes.end()) {
      const auto* whole = std::get_if<int64_t>(&entry.node.value);
      const auto* real = std::get_if<double>(&entry.node.value);
      const double value = whole ? static_cast<double>(*whole) : real ? *real : -1;
      const bool latency = entry.key.ends_with("_us");
      if (!std::isfinite(value) || value < 0 || (value == 0 && !latency)) {
        throw fail(fmt::format("must be a finite number {}, got {}", latency ? "of at least 0" : "above 0",
                               recipe::describe(entry.node)));
      }
      *size->second = value;
    } else {
      std::vector<std::string> keys;
      for (const auto& [key, value] : counts) keys.push_back(key);
      for (const auto& [key, value] : sizes) keys.push_back(key);
      const std::string close = nearest(entry.key, keys);
      throw fail("unknown key" + (close.empty() ? "" : fmt::format(", did you mean '{}'?", close)));
    }
  }
  return out;
}

}  // namespace unigrpo::cli

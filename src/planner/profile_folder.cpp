#include "planner/profile_folder.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/sha256.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{64} << 20;
constexpr int kTableSizes = 11;  // 1 to 1024 MB

std::filesystem::path find_file(const std::filesystem::path& folder, const std::string& pattern) {
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (matches_pattern(entry.path().filename().string(), pattern)) found.push_back(entry.path());
  }
  if (error) throw BadInput("{}: {}", folder.string(), error.message());
  if (found.empty()) throw BadInput("{}: {} is missing", folder.string(), pattern);
  if (found.size() > 1)
    throw BadInput("{}: {} files are named {}, one was expected", folder.string(), found.size(), pattern);
  return found.front();
}

void write_json(const std::filesystem::path& folder, const std::string& name, const json& content) {
  io::write_file_atomic(folder / name, std::string_view(content.dump(1) + "\n"));
}

json by_degree(const ByDegree& values, int64_t most) {
  json out = json::object();
  for (int64_t t = 1; t <= most; t *= 2) out[std::to_string(t)] = at_degree(values, t);
  return out;
}

}  // namespace

ProfileFolder open_profile(const std::filesystem::path& folder) {
  ProfileFolder out{.computation = find_file(folder, "computation_profiling_*_all.json"),
                    .memory = find_file(folder, "memory_profiling_*_all.json"),
                    .allreduce = find_file(folder, "allreduce_bandwidth_*.json"),
                    .p2p = find_file(folder, "p2p_bandwidth_*.json"),
                    .overlap = find_file(folder, "overlap_coefficient.json"),
                    .sp_time = find_file(folder, "sp_time_*.json"),
                    .hash = {}};
  long long nodes = 0, gpus = 0;
  const std::string name = out.allreduce.filename().string();
  if (std::sscanf(name.c_str(), "allreduce_bandwidth_%lldnodes_%lldgpus_per_node.json", &nodes, &gpus) != 2 ||
      nodes < 1 || gpus < 1 || nodes > 100'000 || gpus > 1024) {
    throw BadInput("{}: the name must be allreduce_bandwidth_{{n}}nodes_{{g}}gpus_per_node.json",
                   out.allreduce.string());
  }
  out.nodes = nodes;
  out.gpus_per_node = gpus;
  Sha256 sum;
  for (const auto& file : {out.computation, out.memory, out.allreduce, out.p2p, out.overlap, out.sp_time}) {
    sum.update(io::read_text_file(file, kMaxFileBytes));
  }
  out.hash = sum.hex();
  return out;
}

LoadedProfile load_profile(const ProfileFolder& folder, const ProfileQuery& query) {
  const auto read = [](const std::filesystem::path& file) { return io::read_json_file(file, {}, kMaxFileBytes); };
  const json computation = read(folder.computation), memory = read(folder.memory), allreduce = read(folder.allreduce),
             p2p = read(folder.p2p), overlap = read(folder.overlap), sp_time = read(folder.sp_time);
  return {read_model_profile({computation, folder.computation.string()}, {memory, folder.memory.string()}, query),
          read_hardware_profile({allreduce, folder.allreduce.string()}, {p2p, folder.p2p.string()},
                                {overlap, folder.overlap.string()}, {sp_time, folder.sp_time.string()})};
}

PlannedModel planned_model(const LoadedProfile& profile, const ModelShape& shape, const SampleShape& sample) {
  PlannedModel out;
  out.half = sample.half;
  out.overlap = profile.hardware.overlap;
  const LayerProfile& layer = profile.model.types.front();
  out.layers.push_back({.count = shape.layers,
                        .hidden = shape.hidden,
                        .seq = sample.tokens,
                        .heads = shape.heads,
                        .kv_heads = shape.kv_heads,
                        .forward_ms = layer.forward_ms,
                        .parameter_mb = layer.parameter_mb,
                        .activation_mb = layer.activation_mb,
                        .checkpoint_mb = layer.checkpoint_mb,
                        .trainable = sample.trainable,
                        .experts = shape.experts});
  const auto end = [&](const EndsMemory& ends) {
    return PlannedEnd{.forward_ms = profile.model.ends_ms.at(1) / 2,
                      .parameter_mb = at_degree(ends.states_mb, 1) / 4,
                      .activation_mb = at_degree(ends.activation_mb, 1)};
  };
  out.embed = end(profile.model.first);
  out.head = end(profile.model.last);
  return out;
}

Cluster profiled_cluster(const ProfileFolder& folder, const HardwareProfile& hardware) {
  Cluster out;
  out.nodes = folder.nodes;
  out.gpus_per_node = folder.gpus_per_node;
  for (const auto& [group, gbps] : hardware.allreduce_gbps) {
    if (group.first <= folder.gpus_per_node && group.second) out.intra_gbps = gbps;  // the widest within a node
    if (group.first > folder.gpus_per_node && group.second) out.node_gbps = gbps;
  }
  return out;
}

void write_model_profile(const PlannedModel& model, const std::string& name, const std::filesystem::path& folder) {
  json times = json::object(), memory = json::object();
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const PlannedLayer& layer = model.layers[i];
    times[fmt::format("layertype_{}_bsz1_seq{}", i, layer.seq)] = layer.forward_ms.at(1);
    json activation = by_degree(layer.activation_mb, 8);
    activation["checkpoint"] = layer.checkpoint_mb;
    memory[fmt::format("layertype_{}_sp", i)][std::to_string(layer.seq)] = {{"parameter_size", layer.parameter_mb},
                                                                            {"tp_activation_per_bsz_dict", activation}};
  }
  const std::string seq = std::to_string(model.layers.front().seq);
  times["layertype_other_bsz1_seq" + seq] = model.embed.forward_ms + model.head.forward_ms;
  const auto ends = [&](const char* key, double parameters, double activation) {
    memory[key][seq] = {{"model_states", by_degree({{1, 4 * parameters}}, 8)},
                        {"activation", by_degree({{1, activation}}, 8)}};
  };
  ends("other_memory_pp_off_sp", model.embed.parameter_mb + model.head.parameter_mb,
       model.embed.activation_mb + model.head.activation_mb);
  ends("other_memory_pp_on_first_sp", model.embed.parameter_mb, model.embed.activation_mb);
  ends("other_memory_pp_on_last_sp", model.head.parameter_mb, model.head.activation_mb);
  const std::string precision = model.half ? "bf16" : "fp32";
  std::filesystem::create_directories(folder);
  write_json(folder, fmt::format("computation_profiling_{}_{}_all.json", precision, name), times);
  write_json(folder, fmt::format("memory_profiling_{}_{}_all.json", precision, name), memory);
}

void write_hardware_profile(const Cluster& cluster, double overlap, const std::filesystem::path& folder) {
  json allreduce = json::object(), p2p = json::object(), sp_time = json::object();
  const int64_t world = cluster.world();
  // Bus bandwidth of an all-reduce of 512 MB, as such files mean it: 2 (n-1)/n S / t.
  constexpr double kMegabytes = 512;
  for (int64_t n = 2; n <= world; n *= 2) {
    const auto volume = 2 * static_cast<double>(n - 1) / static_cast<double>(n);
    for (const bool neighbouring : {true, false}) {
      if (n == world && !neighbouring) continue;
      const double ms = collective_ms(cluster, Collective::all_reduce, {n, neighbouring ? 1 : world / n}, kMegabytes);
      allreduce[fmt::format("allreduce_size_{}_consec_{}", n, neighbouring ? 1 : 0)] = volume * kMegabytes / ms;
    }
    p2p[fmt::format("pp_size_{}", n)] = kMegabytes / p2p_ms(cluster, world / n, kMegabytes);
    for (int power = 0; power < kTableSizes; ++power) {
      const int mb = 1 << power;
      sp_time[fmt::format("allreduce_size_{}_{}MB_time", n, mb)] =
          collective_ms(cluster, Collective::all_reduce, {n, 1}, mb);
      sp_time[fmt::format("all2all_size_{}_{}MB_time", n, mb)] =
          collective_ms(cluster, Collective::all_to_all, {n, 1}, mb);
    }
  }
  const std::string machine = fmt::format("{}nodes_{}gpus_per_node.json", cluster.nodes, cluster.gpus_per_node);
  std::filesystem::create_directories(folder);
  write_json(folder, "allreduce_bandwidth_" + machine, allreduce);
  write_json(folder, "p2p_bandwidth_" + machine, p2p);
  write_json(folder, "sp_time_" + machine, sp_time);
  write_json(folder, "overlap_coefficient.json", {{"overlap_coe", overlap}});
}

}  // namespace unigrpo::planner

#include "planner/profile_folder.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>
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
constexpr double kSerial = 2;    // slowdown of two that run at once: more, and they had better take turns

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

/// A model's two files in the making.
struct ModelFiles {
  json times = json::object(), memory = json::object();

  void layer_memory(size_t type, int64_t seq, double parameter_mb, const ByDegree& activation_mb,
                    double checkpoint_mb) {
    json activation = by_degree(activation_mb, 8);
    activation["checkpoint"] = checkpoint_mb;
    memory[fmt::format("layertype_{}_sp", type)][std::to_string(seq)] = {{"parameter_size", parameter_mb},
                                                                         {"tp_activation_per_bsz_dict", activation}};
  }

  /// Parameters and activations, MB.
  using End = std::pair<double, double>;
  void ends_memory(int64_t seq, const End& embed, const End& head) {
    const auto put = [&](const char* key, const End& end) {
      memory[key][std::to_string(seq)] = {{"model_states", by_degree({{1, 4 * end.first}}, 8)},
                                          {"activation", by_degree({{1, end.second}}, 8)}};
    };
    put("other_memory_pp_off_sp", {embed.first + head.first, embed.second + head.second});
    put("other_memory_pp_on_first_sp", embed);
    put("other_memory_pp_on_last_sp", head);
  }

  void write(bool half, const std::string& name, const std::filesystem::path& folder) const {
    const std::string precision = half ? "bf16" : "fp32";
    std::filesystem::create_directories(folder);
    write_json(folder, fmt::format("computation_profiling_{}_{}_all.json", precision, name), times);
    write_json(folder, fmt::format("memory_profiling_{}_{}_all.json", precision, name), memory);
  }
};

/// {"2": 1.2, "4": 1.5}.
ByDegree read_slowdown(const json& object, const std::string& where) {
  ByDegree out;
  if (!object.is_object()) throw BadInput("{}: expected a JSON object, got {}", where, object.type_name());
  for (const auto& [key, value] : object.items()) {
    int64_t ranks = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), ranks);
    if (error != std::errc() || end != key.data() + key.size() || ranks < 2) {
      throw BadInput("{}: {} is no number of ranks from 2 on", where, in_quotes(key));
    }
    if (!value.is_number() || !(value.get<double>() >= 1) || !std::isfinite(value.get<double>())) {
      throw BadInput("{}: {}: expected a number from 1 on, got {}", where, key, value.dump());
    }
    out[ranks] = value.get<double>();
  }
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
                    .hash = {},
                    .device = {},
                    .slice_slowdown = {}};
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
  if (const auto about = folder / "unigrpo_profile.json"; std::filesystem::exists(about)) {
    const json said = io::read_json_file(about, {}, kMaxFileBytes);
    if (said.is_object() && said.contains("device") && said["device"].is_string()) out.device = said["device"];
    if (said.is_object() && said.contains("slice_slowdown")) {
      out.slice_slowdown = read_slowdown(said["slice_slowdown"], about.string() + ": slice_slowdown");
    }
  }
  return out;
}

namespace {

/// (samples, tokens of each) at which a layer was timed.
std::vector<std::pair<int64_t, int64_t>> timed_at(const ProfileFolder& folder) {
  const json times = io::read_json_file(folder.computation, {}, kMaxFileBytes);
  std::vector<std::pair<int64_t, int64_t>> found;
  for (const auto& [key, value] : times.items()) {
    long long batch = 0, length = 0;
    int end = 0;
    const bool read = std::sscanf(key.c_str(), "layertype_0_bsz%lld_seq%lld%n", &batch, &length, &end) == 2;
    if (read && static_cast<size_t>(end) == key.size()) found.emplace_back(batch, length);
  }
  return found;
}

}  // namespace

ProfileMode time_mode(const ProfileFolder& folder, int64_t seq) {
  const auto of_length = [seq](const auto& at) { return at.second == seq; };
  const auto batches = static_cast<size_t>(std::ranges::count_if(timed_at(folder), of_length));
  return batches >= kMinPoints ? ProfileMode::batch : ProfileMode::at_length;
}

std::vector<int64_t> profiled_lengths(const ProfileFolder& folder) {
  std::vector<int64_t> lengths;
  for (const auto& [batch, length] : timed_at(folder)) {
    if (batch == 1 && length > 0) lengths.push_back(length);
  }
  if (lengths.empty()) throw BadInput("{}: 'layertype_0_bsz1_seq*' is missing", folder.computation.string());
  std::ranges::sort(lengths);
  return lengths;
}

LoadedProfile load_profile(const ProfileFolder& folder, const ProfileQuery& query) {
  const auto read = [](const std::filesystem::path& file) { return io::read_json_file(file, {}, kMaxFileBytes); };
  const json computation = read(folder.computation), memory = read(folder.memory), allreduce = read(folder.allreduce),
             p2p = read(folder.p2p), overlap = read(folder.overlap), sp_time = read(folder.sp_time);
  LoadedProfile out{
      read_model_profile({computation, folder.computation.string()}, {memory, folder.memory.string()}, query),
      read_hardware_profile({allreduce, folder.allreduce.string()}, {p2p, folder.p2p.string()},
                            {overlap, folder.overlap.string()}, {sp_time, folder.sp_time.string()})};
  out.slice_slowdown = folder.slice_slowdown;
  return out;
}

PlannedModel planned_model(const LoadedProfile& profile, const ModelShape& shape, const SampleShape& sample) {
  PlannedModel out;
  out.half = sample.half;
  out.overlap = std::min(profile.hardware.overlap, kSerial);
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
                        .experts = shape.experts,
                        .slice_slowdown = profile.slice_slowdown});
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
  if (folder.device.starts_with("cpu")) out.context_mib = 0;
  for (const auto& [ranks, table] : hardware.allreduce) out.all_reduce_ms[ranks] = {table.by_mb};
  for (const auto& [ranks, table] : hardware.all_to_all) out.all_to_all_ms[ranks] = {table.by_mb};
  if (out.nodes == 1) out.stage_gbps = hardware.p2p_gbps;
  return out;
}

void write_model_profile(const PlannedModel& model, const std::string& name, const std::filesystem::path& folder) {
  ModelFiles files;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const PlannedLayer& layer = model.layers[i];
    files.times[fmt::format("layertype_{}_bsz1_seq{}", i, layer.seq)] = layer.forward_ms.at(1);
    files.layer_memory(i, layer.seq, layer.parameter_mb, layer.activation_mb, layer.checkpoint_mb);
  }
  const int64_t seq = model.layers.front().seq;
  files.times[fmt::format("layertype_other_bsz1_seq{}", seq)] = model.embed.forward_ms + model.head.forward_ms;
  files.ends_memory(seq, {model.embed.parameter_mb, model.embed.activation_mb},
                    {model.head.parameter_mb, model.head.activation_mb});
  files.write(model.half, name, folder);
}

void write_model_profile(const MeasuredModel& model, const std::filesystem::path& folder) {
  ModelFiles files;
  const auto layers = static_cast<double>(model.many - model.few);
  const auto positive = [](double value, const std::string& what) {
    if (value > 0) return value;
    throw RuntimeFailure("profile: {} came out as {:g}: the machine was too busy to measure it; try again", what,
                         value);
  };
  for (const TimedForward& time : model.times) {
    files.times[fmt::format("layernum[{}]_bsz{}_seq{}", time.layers, time.batch, time.seq)] = time.ms;
    if (time.layers != model.few) continue;
    const auto with_many = std::ranges::find_if(model.times, [&](const TimedForward& other) {
      return other.layers == model.many && other.batch == time.batch && other.seq == time.seq;
    });
    if (with_many == model.times.end()) continue;
    const std::string at = fmt::format("bsz{}_seq{}", time.batch, time.seq);
    const auto samples = static_cast<double>(time.batch);
    const double layer_ms = positive((with_many->ms - time.ms) / layers / samples, "a layer's time at " + at);
    files.times["layertype_0_" + at] = layer_ms;
    files.times["layertype_other_" + at] = std::max(0.0, time.ms / samples - layer_ms * static_cast<double>(model.few));
  }
  const auto layer = [&](double MeasuredModel::Memory::*part, const char* what) {
    return positive((model.with_many.*part - model.with_few.*part) / layers, std::string("a layer's ") + what);
  };
  const auto ends = [&](double MeasuredModel::Memory::*part, double a_layer) {
    return std::max(0.0, model.with_few.*part - a_layer * static_cast<double>(model.few));
  };
  using Memory = MeasuredModel::Memory;
  const double parameters = layer(&Memory::parameter_mb, "parameters");
  const double activation = layer(&Memory::activation_mb, "activations");
  const double checkpoint = layer(&Memory::checkpoint_mb, "kept inputs");
  files.layer_memory(0, model.seq, parameters, {{1, activation}}, checkpoint);
  const auto head = [](double whole, double embed) { return std::max(0.0, whole - embed); };
  files.ends_memory(model.seq, {model.embed_parameter_mb, model.embed_activation_mb},
                    {head(ends(&Memory::parameter_mb, parameters), model.embed_parameter_mb),
                     head(ends(&Memory::activation_mb, activation), model.embed_activation_mb)});
  files.write(model.half, model.name, folder);
}

HardwareProfile counted_hardware(const Cluster& cluster, double overlap) {
  HardwareProfile out;
  out.overlap = overlap;
  const int64_t world = cluster.world();
  // Bus bandwidth of an all-reduce of 512 MB, as such files mean it: 2 (n-1)/n S / t.
  constexpr double kMegabytes = 512;
  for (int64_t n = 2; n <= world; n *= 2) {
    const auto volume = 2 * static_cast<double>(n - 1) / static_cast<double>(n);
    for (const bool neighbouring : {true, false}) {
      if (n == world && !neighbouring) continue;
      const double ms = collective_ms(cluster, Collective::all_reduce, {n, neighbouring ? 1 : world / n}, kMegabytes);
      out.allreduce_gbps[{n, neighbouring}] = volume * kMegabytes / ms;
    }
    out.p2p_gbps[n] = kMegabytes / p2p_ms(cluster, world / n, kMegabytes);
    for (int power = 0; power < kTableSizes; ++power) {
      const int mb = 1 << power;
      out.allreduce[n].by_mb[mb] = collective_ms(cluster, Collective::all_reduce, {n, 1}, mb);
      out.all_to_all[n].by_mb[mb] = collective_ms(cluster, Collective::all_to_all, {n, 1}, mb);
    }
  }
  return out;
}

void write_hardware_profile(const HardwareProfile& hardware, int64_t nodes, int64_t gpus_per_node,
                            const std::filesystem::path& folder) {
  json allreduce = json::object(), p2p = json::object(), sp_time = json::object();
  for (const auto& [group, gbps] : hardware.allreduce_gbps) {
    allreduce[fmt::format("allreduce_size_{}_consec_{}", group.first, group.second ? 1 : 0)] = gbps;
  }
  for (const auto& [stages, gbps] : hardware.p2p_gbps) p2p[fmt::format("pp_size_{}", stages)] = gbps;
  const auto table = [&](const char* kind, const std::map<int64_t, Latencies>& latencies) {
    for (const auto& [ranks, times] : latencies) {
      for (const auto& [mb, ms] : times.by_mb) sp_time[fmt::format("{}_size_{}_{:g}MB_time", kind, ranks, mb)] = ms;
    }
  };
  table("allreduce", hardware.allreduce);
  table("all2all", hardware.all_to_all);
  const std::string machine = fmt::format("{}nodes_{}gpus_per_node.json", nodes, gpus_per_node);
  std::filesystem::create_directories(folder);
  write_json(folder, "allreduce_bandwidth_" + machine, allreduce);
  write_json(folder, "p2p_bandwidth_" + machine, p2p);
  write_json(folder, "sp_time_" + machine, sp_time);
  write_json(folder, "overlap_coefficient.json", {{"overlap_coe", hardware.overlap}});
}

}  // namespace unigrpo::planner

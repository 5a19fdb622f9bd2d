#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo::planner {

/// slope * x + offset, by least squares.
struct Line {
  double slope = 0, offset = 0;
  double at(double x) const { return slope * x + offset; }
};
Line fit_line(const std::vector<std::pair<double, double>>& points);

inline constexpr size_t kMinPoints = 8;  // of a table of latencies, and of a line over the batch

/// How a profile is read: at the exact length; a line over the batch; curves over the length.
UNIGRPO_ENUM(ProfileMode, UNIGRPO_SPELLED(at_length, "static"), batch, sequence);

/// Milliseconds by message size of one kind of exchange among n ranks.
struct Latencies {
  std::map<double, double> by_mb;
  Line line;
  /// The entry of exactly this size, else the fitted line.
  double at(double megabytes) const;
};

struct HardwareProfile {
  std::map<std::pair<int64_t, bool>, double> allreduce_gbps;  // (ranks, neighbouring)
  std::map<int64_t, double> p2p_gbps;                         // by stages
  std::map<int64_t, Latencies> allreduce, all_to_all;         // by ranks
  double overlap = 1;                                         // slowdown of compute and communication while both run
  std::string allreduce_file, p2p_file, sp_time_file;         // in front of errors
};

/// A value by degree, where a missing degree is half of the next smaller one.
using ByDegree = std::map<int64_t, double>;
double at_degree(const ByDegree& values, int64_t degree);

struct LayerProfile {
  Line forward_ms;           // over samples / split
  double parameter_mb = 0;   // float32
  ByDegree activation_mb;    // a sample
  double checkpoint_mb = 0;  // a sample, where recomputed
};

struct EndsMemory {  // of embeddings and head
  ByDegree states_mb, activation_mb;
};

/// The layers that a model repeats.
struct LayerType {
  int64_t count = 0, hidden = 0, seq = 0;
};

struct ModelProfile {
  std::vector<LayerProfile> types;
  Line ends_ms;                   // embeddings and head, over samples / split
  EndsMemory whole, first, last;  // without a pipeline; its ends
};

struct ProfileQuery {
  std::vector<LayerType> types = {};
  ProfileMode time = ProfileMode::at_length, memory = ProfileMode::at_length;
};

/// A file's content; `name` stands in front of errors.
struct NamedJson {
  const nlohmann::json& content;
  std::string name;
};

/// Galvatron's profiles, as its files hold them. Throw BadInput naming file and key: missing, not a number, not finite,
/// negative.
ModelProfile read_model_profile(const NamedJson& computation, const NamedJson& memory, const ProfileQuery& query);
HardwareProfile read_hardware_profile(const NamedJson& allreduce, const NamedJson& p2p, const NamedJson& overlap,
                                      const NamedJson& sp_time);

}  // namespace unigrpo::planner

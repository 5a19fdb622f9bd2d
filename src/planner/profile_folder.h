#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "planner/cost_model.h"
#include "planner/model_shape.h"
#include "planner/profile.h"

namespace unigrpo::planner {

/// A folder of Galvatron's profile files, found by their names.
struct ProfileFolder {
  std::filesystem::path computation, memory, allreduce, p2p, overlap, sp_time;
  int64_t nodes = 1, gpus_per_node = 8;  // by the name of allreduce's file
  std::string hash;                      // SHA-256 of all files' contents
  // What unigrpo_profile.json says beside them, if it is there: what the model was measured on, and how much slower a
  // layer's slices are than the layer, by their number (tp).
  std::string device;
  ByDegree slice_slowdown;
};

/// Throws BadInput naming the file that is missing, or that there are several of.
ProfileFolder open_profile(const std::filesystem::path& folder);

/// At which a layer was timed, sample by sample, the shortest first. Throws BadInput where there is none.
std::vector<int64_t> profiled_lengths(const ProfileFolder& folder);

struct LoadedProfile {
  ModelProfile model;
  HardwareProfile hardware;
  ByDegree slice_slowdown = {};
};
LoadedProfile load_profile(const ProfileFolder& folder, const ProfileQuery& query);

/// Measured times and sizes for model U; what the files do not say (heads) is the model's shape.
PlannedModel planned_model(const LoadedProfile& profile, const ModelShape& shape, const SampleShape& sample);

/// Over batches where the layer was timed at enough of them, else at one sample.
ProfileMode time_mode(const ProfileFolder& folder, int64_t seq);

/// A cluster like the profiled machine: its times within a node, and bandwidths of its widest groups.
Cluster profiled_cluster(const ProfileFolder& folder, const HardwareProfile& hardware);

/// A forward pass of the whole model with so many layers, as timed.
struct TimedForward {
  int64_t layers = 0, batch = 0, seq = 0;
  double ms = 0;
};

/// What was measured with two numbers of layers, from which one layer and the ends follow: all times at both, and at
/// one length the bytes that are alive after a forward pass of one sample.
struct MeasuredModel {
  std::string name;  // of the files
  bool half = true;
  int64_t few = 1, many = 3;  // layers
  std::vector<TimedForward> times;
  int64_t seq = 0;
  struct Memory {
    double parameter_mb = 0;   // float32
    double activation_mb = 0;  // kept for a backward pass
    double checkpoint_mb = 0;  // the same where layers are recomputed
  } with_few, with_many;
  double embed_parameter_mb = 0, embed_activation_mb = 0;  // the rest of the ends is the head's
  ByDegree slice_slowdown = {};
};

/// Write Galvatron's profile files; unigrpo_profile.json beside them says whether they were measured or counted.
/// Measured: throws RuntimeFailure where noise makes a layer's time or memory negative.
void write_model_profile(const PlannedModel& model, const std::string& name, const std::filesystem::path& folder);
void write_model_profile(const MeasuredModel& model, const std::filesystem::path& folder);
void write_hardware_profile(const HardwareProfile& hardware, int64_t nodes, int64_t gpus_per_node,
                            const std::filesystem::path& folder);
/// Of a cluster by its figures.
HardwareProfile counted_hardware(const Cluster& cluster, double overlap);

}  // namespace unigrpo::planner

#pragma once

#include <filesystem>
#include <string>

#include "planner/cost_model.h"
#include "planner/model_shape.h"
#include "planner/profile.h"

namespace unigrpo::planner {

/// A folder of Galvatron's profile files, found by their names.
struct ProfileFolder {
  std::filesystem::path computation, memory, allreduce, p2p, overlap, sp_time;
  int64_t nodes = 1, gpus_per_node = 8;  // by the name of allreduce's file
  std::string hash;                      // SHA-256 of all files' contents
};

/// Throws BadInput naming the file that is missing, or that there are several of.
ProfileFolder open_profile(const std::filesystem::path& folder);

struct LoadedProfile {
  ModelProfile model;
  HardwareProfile hardware;
};
LoadedProfile load_profile(const ProfileFolder& folder, const ProfileQuery& query);

/// Measured times and sizes for model U; what the files do not say (heads) is the model's shape.
PlannedModel planned_model(const LoadedProfile& profile, const ModelShape& shape, const SampleShape& sample);

/// A cluster like the profiled machine: bandwidths of its widest groups.
Cluster profiled_cluster(const ProfileFolder& folder, const HardwareProfile& hardware);

/// Writes a model's and a cluster's profile files as counted, not measured; unigrpo_profile.json says so.
void write_model_profile(const PlannedModel& model, const std::string& name, const std::filesystem::path& folder);
void write_hardware_profile(const Cluster& cluster, double overlap, const std::filesystem::path& folder);

}  // namespace unigrpo::planner

#pragma once

#include <cstdint>
#include <vector>

#include "planner/pipeline.h"
#include "planner/profile.h"
#include "planner/strategy.h"

namespace unigrpo::planner {

/// What a run is, for Galvatron's model.
struct GalvatronSetting {
  std::vector<LayerType> types = {};
  int64_t world = 8;
  bool half = true;  // fp16, bf16
  Schedule schedule = Schedule::one_f_one_b;
  bool async_grad_reduce = false;
  int64_t global_batch = 1, micro_batches = 1;
};

/// Galvatron's cost model, switches and oddities included ("model G"): times in seconds of a micro-batch, sizes in MB.
/// Source: PKU-DAIR/Hetu-Galvatron, galvatron/core/cost_model at cea12ff; arXiv 2504.21411. Its terms stand in the
/// source. Throws BadInput naming file and key where the profile has no entry for a group.
class GalvatronCost {
 public:
  GalvatronCost(const ModelProfile& model, const HardwareProfile& hardware, const GalvatronSetting& setting)
      : model_(model), hardware_(hardware), set_(setting) {}

  double layer_seconds(size_t type, const Strategy& s, bool sync) const;
  double layer_states_mb(size_t type, const Strategy& s) const;
  double layer_activation_mb(size_t type, const Strategy& s, int64_t stage) const;
  /// A value a stage.
  std::vector<double> embed_seconds(const Strategy& s, bool sync) const;
  std::vector<double> embed_mb(const Strategy& s) const;
  /// Of a step. `strategies`: one a layer; layers in the order of their types.
  double step_seconds(const std::vector<Strategy>& strategies, const std::vector<int64_t>& partition,
                      const Strategy& embed) const;
  /// Type of each layer.
  std::vector<int64_t> layer_types() const;
  /// ms a MB of an all-reduce among n ranks.
  double allreduce_ms_per_mb(int64_t ranks, bool neighbouring) const;
  const GalvatronSetting& setting() const { return set_; }

 private:
  double samples(const Strategy& s) const;  // of a micro-batch at a replica
  double held(const Strategy& s, int64_t stage) const;
  double zero_share(const Strategy& s) const;
  double message_mb(double batch, const LayerType& type) const;
  double half_factor() const { return set_.half ? 0.5 : 1; }
  const Latencies& table(const std::map<int64_t, Latencies>& tables, int64_t ranks, const char* kind) const;

  const ModelProfile& model_;
  const HardwareProfile& hardware_;
  GalvatronSetting set_;
};

}  // namespace unigrpo::planner

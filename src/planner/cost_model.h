#pragma once

#include <cstdint>
#include <vector>

#include "planner/cluster.h"
#include "planner/pipeline.h"
#include "planner/profile.h"
#include "planner/strategy.h"

namespace unigrpo::planner {

/// A layer that a model repeats, as model U prices it.
struct PlannedLayer {
  int64_t count = 1, hidden = 1, seq = 1, heads = 0, kv_heads = 0;  // heads 0: unknown, any degree
  Line forward_ms = {};                                             // over samples / split
  double parameter_mb = 0;                                          // float32, all experts
  ByDegree activation_mb = {};                                      // a sample
  double checkpoint_mb = 0;
  double trainable = 1;  // share of parameters with gradients and moments
  int64_t experts = 1;   // sets of weights, of which a token uses one
  /// How much slower tp slices of its products are than the whole, by tp, as measured; between and above as the next
  /// smaller one, empty: not at all.
  ByDegree slice_slowdown = {};
};

struct PlannedEnd {                                            // embeddings, or the head
  double forward_ms = 0, parameter_mb = 0, activation_mb = 0;  // a sample
};

struct PlannedModel {
  std::vector<PlannedLayer> layers;
  PlannedEnd embed, head;
  bool half = true;       // bf16 weights beside float32 masters
  double overlap = 1.15;  // slowdown of compute and communication while both run
};

/// What model U does otherwise than Galvatron's; each may be switched off.
struct Repairs {
  bool shard_sp_groups = true;       // gradient traffic and ZeRO of sp groups without replicas
  bool physical_transitions = true;  // priced as the exchange that they are, and counted in the result
  bool any_degree = true;            // every degree that divides the heads, not only powers of two
  bool uneven_stages = true;         // boundaries move
  bool placed_messages = true;       // by where in the cluster the group's ranks are
  bool frozen = true;                // what is not trained has no gradient, no moments, no weight backward
  bool two_experts = true;           // a token passes one expert, memory and traffic are of all
  bool stored_states = true;  // 2 + 4 bytes of weights, 4 of gradients, 8 of moments; else Galvatron's 16 a parameter
};

/// Memory of a rank by what it is for, MB. Gradients are those of one micro-batch alone; of several their sum is kept
/// from one to the next.
struct MemoryView {
  double weights = 0, gradients = 0, accumulation = 0, moments = 0, activations = 0, buffers = 0;
  double total() const { return weights + gradients + accumulation + moments + activations + buffers; }
  MemoryView& operator+=(const MemoryView& other);
};

/// One layer under one strategy, a micro-batch.
struct LayerWork {
  double forward = 0, backward = 0;                    // compute
  double gather = 0;                                   // of weights (ZeRO-3), before each pass
  double exchange_forward = 0, exchange_backward = 0;  // tp and sp, which compute waits for
  double reduce = 0;                                   // of gradients after each backward (ZeRO-3)
  double sync = 0;                                     // of gradients after the step's last backward (others)
};

/// Our cost model ("model U"): every message priced by the collective formulas of cluster.h. ms and MB.
class CostModel {
 public:
  CostModel(const PlannedModel& model, const Cluster& cluster, const Repairs& repairs, int64_t global_batch,
            int64_t micro_batches)
      : model_(model), cluster_(cluster), repairs_(repairs), batch_(global_batch), micro_batches_(micro_batches) {}

  LayerWork layer_work(size_t type, const Strategy& s) const;
  /// Forward and backward with what overlaps: min(a, b) o + |a - b| of compute and weight traffic, plus exchanges.
  double forward_ms(const LayerWork& work) const;
  double backward_ms(const LayerWork& work) const;
  /// Gradient traffic of the step that the last backward does not hide.
  double exposed_sync_ms(const LayerWork& work) const;

  /// Without activations of more than one micro-batch.
  MemoryView layer_memory(size_t type, const Strategy& s) const;
  LayerWork end_work(const PlannedEnd& end, const Strategy& s) const;
  MemoryView end_memory(const PlannedEnd& end, const Strategy& s) const;
  /// Re-split of the activations between two neighbours, forward and backward together.
  double transition_ms(size_t type, const Strategy& a, const Strategy& b) const;
  double border_ms(const Strategy& s) const;  // between two stages
  const PlannedModel& model() const { return model_; }
  int64_t micro_batches() const { return micro_batches_; }

 private:
  double samples(const Strategy& s) const;
  double message_mb(size_t type, const Strategy& s) const;  // activations of the samples of a replica
  double collective(Collective kind, GroupPlace group, double megabytes) const;
  int64_t shard_ranks(const Strategy& s) const;
  LayerWork state_traffic(double parameter_mb, double trainable, const Strategy& s) const;
  MemoryView states(double parameter_mb, double trainable, const Strategy& s) const;

  const PlannedModel& model_;
  const Cluster& cluster_;
  Repairs repairs_;
  int64_t batch_, micro_batches_;
};

}  // namespace unigrpo::planner

#include "planner/cost_model.h"

#include <cmath>
#include <iterator>

#include "planner/numbers.h"

namespace unigrpo::planner {
MemoryView& MemoryView::operator+=(const MemoryView& other) {
  weights += other.weights;
  gradients += other.gradients;
  accumulation += other.accumulation;
  moments += other.moments;
  activations += other.activations;
  buffers += other.buffers;
  return *this;
}

double CostModel::samples(const Strategy& s) const { return real(batch_) / real(micro_batches_) / real(s.dp); }

double CostModel::message_mb(size_t type, const Strategy& s) const {
  const PlannedLayer& layer = model_.layers[type];
  return samples(s) * real(layer.seq) * real(layer.hidden) * (model_.half ? 2 : 4) / kMib;
}

double CostModel::collective(Collective kind, GroupPlace group, double megabytes) const {
  if (repairs_.placed_messages) return collective_ms(cluster_, kind, group, megabytes);
  Cluster flat = cluster_;  // as if all ranks were in one node
  flat.gpus_per_node = cluster_.world();
  flat.nodes = 1;
  return collective_ms(flat, kind, {group.ranks, 1}, megabytes);
}

int64_t CostModel::shard_ranks(const Strategy& s) const {
  return s.dp == 1 && !repairs_.shard_sp_groups ? 1 : s.shard_ranks();
}

// Weights P float32 MB, of which a share u is trained; d ranks of the shard group, tp apart; w bytes a stored weight.
//
//   ZeRO 0, 1   all-reduce of 4 u P / tp bytes a step          ZeRO 2   reduce-scatter of gradients, gather of weights
//   ZeRO 3      gather of w P / tp before each pass, reduce-scatter of 4 u P / tp after each backward
LayerWork CostModel::state_traffic(double parameter_mb, double trainable, const Strategy& s) const {
  LayerWork out;
  const GroupPlace group{shard_ranks(s), s.tp};
  const double weights = parameter_mb / real(s.tp) * (model_.half ? 0.5 : 1);
  const double gradients = repairs_.frozen ? parameter_mb / real(s.tp) * trainable : parameter_mb / real(s.tp);
  if (s.zero == 3) {
    out.gather = collective(Collective::all_gather, group, weights);
    out.reduce = gradients > 0 ? collective(Collective::reduce_scatter, group, gradients) : 0;
  } else if (gradients > 0) {
    out.sync = s.zero == 2 ? collective(Collective::reduce_scatter, group, gradients) +
                                 collective(Collective::all_gather, group, weights)
                           : collective(Collective::all_reduce, group, gradients);
  }
  return out;
}

//   tp (sequence-parallel regions): forward 2 gathers and 2 reduce-scatters of the replica's activations, backward
//   alike sp: forward all-to-all of query, key, value and the output, each rank having 1/sp; backward alike recomputing
//   repeats the forward, exchanges included
LayerWork CostModel::layer_work(size_t type, const Strategy& s) const {
  const PlannedLayer& layer = model_.layers[type];
  const double experts = repairs_.two_experts ? 1 : 1 / real(layer.experts);  // off: one expert is all there is
  const double trainable = repairs_.frozen ? layer.trainable : 1;
  LayerWork out = state_traffic(layer.parameter_mb * experts, trainable, s);
  out.forward = layer.forward_ms.at(samples(s) / real(s.split()));
  const auto above = layer.slice_slowdown.upper_bound(s.tp);
  if (above != layer.slice_slowdown.begin()) out.forward *= std::prev(above)->second;
  // Of what is frozen the backward has the inputs' half alone.
  out.backward = out.forward * (1 + trainable) + (s.recompute ? out.forward : 0);
  const double mb = message_mb(type, s);
  double exchange = 0;
  if (s.tp > 1) {
    exchange = 2 * collective(Collective::all_gather, {s.tp, 1}, mb) +
               2 * collective(Collective::reduce_scatter, {s.tp, 1}, mb);
  } else if (s.sp > 1) {
    const double kv = layer.heads > 0 ? real(std::max(layer.kv_heads, s.sp)) / real(layer.heads) : 1;
    exchange = 2 * collective(Collective::all_to_all, {s.sp, 1}, mb / real(s.sp)) +
               2 * collective(Collective::all_to_all, {s.sp, 1}, mb / real(s.sp) * std::min(1.0, kv));
  }
  out.exchange_forward = exchange;
  out.exchange_backward = exchange * (s.recompute ? 2 : 1);
  return out;
}

double CostModel::forward_ms(const LayerWork& w) const {
  return std::min(w.forward, w.gather) * model_.overlap + std::abs(w.forward - w.gather) + w.exchange_forward;
}

double CostModel::backward_ms(const LayerWork& w) const {
  const double traffic = w.gather + w.reduce;
  return std::min(w.backward, traffic) * model_.overlap + std::abs(w.backward - traffic) + w.exchange_backward;
}

double CostModel::exposed_sync_ms(const LayerWork& w) const {
  const double free = std::max(0.0, w.backward - w.gather - w.reduce);  // compute that nothing overlaps yet
  return std::min(free, w.sync) * (model_.overlap - 1) + std::max(0.0, w.sync - free);
}

//   bytes a parameter: weights 2 and a float32 master 4 (float32: 4), gradients 4 u, moments 8 u
//   ZeRO 1 splits master and moments over d ranks, 2 and gradients, 3 and weights
MemoryView CostModel::states(double parameter_mb, double trainable, const Strategy& s) const {
  const double p = parameter_mb / real(s.tp), u = repairs_.frozen ? trainable : 1, d = real(shard_ranks(s));
  const auto split = [&](int level) { return s.zero >= level ? d : 1; };
  MemoryView out;
  const double master = model_.half && repairs_.stored_states ? p * u / split(1) : 0;
  const double weight = p * (model_.half && repairs_.stored_states ? 0.5 : 1);
  out.weights = weight / split(3) + master;
  (micro_batches_ > 1 ? out.accumulation : out.gradients) = p * u / split(2);
  out.moments = 2 * p * u / split(1);
  return out;
}

MemoryView CostModel::layer_memory(size_t type, const Strategy& s) const {
  const PlannedLayer& layer = model_.layers[type];
  const double experts = repairs_.two_experts ? 1 : 1 / real(layer.experts);
  MemoryView out = states(layer.parameter_mb * experts, layer.trainable, s);
  const double sample = s.recompute ? layer.checkpoint_mb / real(s.split()) : at_degree(layer.activation_mb, s.split());
  out.activations = sample * samples(s);
  return out;
}

LayerWork CostModel::end_work(const PlannedEnd& end, const Strategy& s) const {
  LayerWork out = state_traffic(end.parameter_mb, 1, s);
  out.forward = end.forward_ms * samples(s) / real(s.split());
  out.backward = 2 * out.forward;
  return out;
}

MemoryView CostModel::end_memory(const PlannedEnd& end, const Strategy& s) const {
  MemoryView out = states(end.parameter_mb, 1, s);
  out.activations = end.activation_mb * samples(s) / real(s.split());
  out.buffers = cluster_.context_mib / 2;
  return out;
}

// All-to-all in blocks of the larger split, each rank owning 1/t of its replica's tokens before and after.
double CostModel::transition_ms(size_t type, const Strategy& a, const Strategy& b) const {
  if (a.split() == b.split() && a.dp == b.dp) return 0;
  const int64_t block = std::max(a.split(), b.split());
  if (!repairs_.physical_transitions) return 0;
  const double mb = message_mb(type, a) / real(a.split());
  return 2 * collective(Collective::all_to_all, {block, 1}, mb);
}

double CostModel::border_ms(const Strategy& s) const {
  return p2p_ms(cluster_, s.dp * s.split(), message_mb(0, s) / real(s.split()));
}

}  // namespace unigrpo::planner

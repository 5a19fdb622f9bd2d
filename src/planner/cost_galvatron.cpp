#include "planner/cost_galvatron.h"

#include "base/error.h"
#include "planner/numbers.h"
#include "planner/partition.h"

namespace unigrpo::planner {
namespace {

const EndsMemory& ends_of(const ModelProfile& model, int64_t stages, int64_t stage) {
  if (stages == 1) return model.whole;
  return stage == 0 ? model.first : model.last;
}

}  // namespace

// b = floor(floor(B / k) / dp)
double GalvatronCost::samples(const Strategy& s) const { return real(set_.global_batch / set_.micro_batches / s.dp); }

double GalvatronCost::held(const Strategy& s, int64_t stage) const {
  if (s.pp == 1) return 1;
  return real(set_.schedule == Schedule::gpipe ? set_.micro_batches : s.pp - stage);
}

double GalvatronCost::message_mb(double batch, const LayerType& type) const {
  return batch * real(type.seq) * real(type.hidden) * (set_.half ? 2 : 4) / kMib;
}

double GalvatronCost::allreduce_ms_per_mb(int64_t ranks, bool neighbouring) const {
  if (ranks == 1) return 0;
  const bool consec = neighbouring || ranks == set_.world;
  const auto found = hardware_.allreduce_gbps.find({ranks, consec});
  if (found == hardware_.allreduce_gbps.end()) {
    throw BadInput("{}: 'allreduce_size_{}_consec_{}' is missing", hardware_.allreduce_file, ranks, consec ? 1 : 0);
  }
  return 1 / found->second;
}

const Latencies& GalvatronCost::table(const std::map<int64_t, Latencies>& tables, int64_t ranks,
                                      const char* kind) const {
  const auto found = tables.find(ranks);
  if (found == tables.end()) {
    throw BadInput("{}: '{}_size_{}_*MB_time' is missing", hardware_.sp_time_file, kind, ranks);
  }
  return found->second;
}

//   F = f b / t      R = 2F (+ F when recomputing)       g = 2 (d-1)/d P/tp h
//   x = m count (1.5 if recomputing)                     sp: 4 all-to-alls; tp: 6 halves of an all-reduce
//   overlap: G = g c o, Q = R o;   G > Q: tail = Q + (g - Q/(c o)) c,   else tail = G + R - G/o
//   time = F + tail + x  (dp > 1),  F + R + x  (dp = 1);   zero 3: + (g/2) c
//   pp > 1: + pp 2 b S hidden 4 h MB / p2p bandwidth / layers of the model
double GalvatronCost::layer_seconds(size_t type, const Strategy& s, bool sync) const {
  const double b = samples(s), t = real(s.split()), d = real(s.shard_ranks());
  const LayerProfile& layer = model_.types[type];
  const double forward = layer.forward_ms.at(b / t);
  const double backward = 2 * forward + (s.recompute ? forward : 0);
  const double gradient = 2 * (d - 1) / d * (layer.parameter_mb / real(s.tp)) * half_factor();
  const double c = allreduce_ms_per_mb(s.shard_ranks(), s.tp == 1);

  double exchange = 0;
  if (s.split() > 1) {
    const double mb = message_mb(b, set_.types[type]);
    exchange = s.tp > 1 ? 6 * table(hardware_.allreduce, s.tp, "allreduce").at(mb) / 2
                        : 4 * table(hardware_.all_to_all, s.sp, "all2all").at(mb);
    if (s.recompute) exchange *= 1.5;
  }
  double ms = forward + backward;
  if (s.dp > 1) {
    const double o = hardware_.overlap, g = sync ? gradient : 0;
    const double reduce = g * c * o, compute = backward * o;
    const double tail = reduce > compute ? compute + (g - compute / (c * o)) * c : reduce + backward - reduce / o;
    ms = forward + tail;
  }
  ms += exchange;
  if (s.zero == 3) ms += gradient / 2 * c;
  if (s.pp > 1) {
    const auto found = hardware_.p2p_gbps.find(s.pp);
    if (found == hardware_.p2p_gbps.end()) {
      throw BadInput("{}: 'pp_size_{}' is missing", hardware_.p2p_file, s.pp);
    }
    ms += real(s.pp) * 2 * message_mb(b, set_.types[type]) / found->second / real(set_.types[type].count);
  }
  return ms / 1000;
}

//   states 4 P/tp z;  q = 1/d + 0.003
//   k = 1: z2 = 7/8 q + 1/8, z3 = q;   async: z2 = 6/8 q + 2/8, z3 = 7/8 q + 1/8;   else 5/4 of k = 1's
//   fp32:  z2 = 3/4 q + 1/4, with async 2/4 q + 2/4;   z3 with async 3/4 q + 1/4
double GalvatronCost::zero_share(const Strategy& s) const {
  if (s.zero != 2 && s.zero != 3) return 1;
  const double q = 1 / real(s.shard_ranks()) + 0.003;
  const auto mix = [q](double share) { return share * q + 1 - share; };
  const bool once = set_.micro_batches == 1, async = !once && set_.async_grad_reduce;
  if (s.zero == 3) {
    if (async) return mix(set_.half ? 7.0 / 8 : 3.0 / 4);
    return once ? q : q * 5 / 4;
  }
  if (!set_.half) return mix(async ? 2.0 / 4 : 3.0 / 4);
  if (async) return mix(6.0 / 8);
  return once ? mix(7.0 / 8) : mix(7.0 / 8) * 5 / 4;
}

double GalvatronCost::layer_states_mb(size_t type, const Strategy& s) const {
  return 4 * model_.types[type].parameter_mb / real(s.tp) * zero_share(s);
}

double GalvatronCost::layer_activation_mb(size_t type, const Strategy& s, int64_t stage) const {
  const LayerProfile& layer = model_.types[type];
  const double sample = s.recompute ? layer.checkpoint_mb / real(s.split()) : at_degree(layer.activation_mb, s.split());
  return sample * samples(s) * held(s, stage);
}

//   each direction, message C against compute E:  C + (E o - C)/o if E o > C, else C
//   C = share M/4 h c (d-1)/d;  share forward 0 (zero 3: 1/2), backward 1/2 (zero 3: 1), without sync 1/2 less
//   tp > 1: + one all-gather a stage end (two when pp = 1)
std::vector<double> GalvatronCost::embed_seconds(const Strategy& s, bool sync) const {
  const double b = samples(s), d = real(s.shard_ranks()), o = hardware_.overlap;
  const double c = allreduce_ms_per_mb(s.shard_ranks(), s.tp == 1) * (d - 1) / d;
  const double forward_share = s.zero == 3 ? 0.5 : 0;
  const double backward_share = (s.zero == 3 ? 1 : 0.5) - (sync ? 0 : 0.5);
  const double compute = model_.ends_ms.at(b / real(s.split())) / (s.pp == 1 ? 1 : 2);
  const auto direction = [o](double message, double work) {
    return work * o > message ? message + (work * o - message) / o : message;
  };
  std::vector<double> out(s.pp, 0);
  for (const int64_t stage : {int64_t{0}, s.pp - 1}) {
    const double states = at_degree(ends_of(model_, s.pp, stage).states_mb, s.tp);
    const double message = states / 4 * half_factor() * c;
    double gather = 0;
    if (s.tp > 1) {
      const LayerType& type = stage == 0 ? set_.types.front() : set_.types.back();
      gather = table(hardware_.allreduce, s.tp, "allreduce").at(message_mb(b, type)) / 2;
      if (s.pp == 1) {
        gather += table(hardware_.allreduce, s.tp, "allreduce").at(message_mb(b, set_.types.front())) / 2;
      }
    }
    out[stage] =
        (direction(message * forward_share, compute) + direction(message * backward_share, 2 * compute) + gather) /
        1000;
  }
  return out;
}

std::vector<double> GalvatronCost::embed_mb(const Strategy& s) const {
  std::vector<double> out(s.pp, kContextMb);
  const double share = zero_share(s);
  for (int64_t stage = 0; stage < s.pp; stage += std::max<int64_t>(1, s.pp - 1)) {
    const EndsMemory& ends = ends_of(model_, s.pp, stage);
    out[stage] += at_degree(ends.states_mb, s.tp) * share +
                  at_degree(ends.activation_mb, s.split()) * samples(s) * held(s, stage);
  }
  return out;
}

std::vector<int64_t> GalvatronCost::layer_types() const {
  std::vector<int64_t> out;
  for (size_t type = 0; type < set_.types.size(); ++type) {
    out.insert(out.end(), set_.types[type].count, static_cast<int64_t>(type));
  }
  return out;
}

double GalvatronCost::step_seconds(const std::vector<Strategy>& strategies, const std::vector<int64_t>& partition,
                                   const Strategy& embed) const {
  const std::vector<int64_t> types = layer_types();
  std::vector<double> without = embed_seconds(embed, false), with(partition.size(), 0);
  size_t layer = 0;
  for (size_t stage = 0; stage < partition.size(); ++stage) {
    for (int64_t i = 0; i < partition[stage]; ++i, ++layer) {
      with[stage] += layer_seconds(types[layer], strategies[layer], true);
      without[stage] += layer_seconds(types[layer], strategies[layer], false);
    }
  }
  return galvatron_step(without, with, set_.micro_batches);
}

}  // namespace unigrpo::planner

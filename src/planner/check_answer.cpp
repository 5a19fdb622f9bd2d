// Judges answers by the definitions alone: no function of the optimisers is called here.
#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "planner/selftest.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;
using Strings = std::vector<std::string>;

bool close(double got, double want, double rtol) { return std::abs(got - want) <= rtol * std::abs(want) + 1e-9; }

/// Every key of `want` in `got`, numbers within rtol.
std::string differs(const json& got, const json& want, double rtol, const std::string& at) {
  if (want.is_number()) {
    if (!got.is_number()) return at + ": no number";
    if (!close(got.get<double>(), want.get<double>(), rtol)) {
      return fmt::format("{}: {} where {} is expected", at, got.dump(), want.dump());
    }
    return "";
  }
  if (want.is_array()) {
    if (!got.is_array() || got.size() != want.size()) return at + ": a list of another length";
    for (size_t i = 0; i < want.size(); ++i) {
      const std::string reason = differs(got[i], want[i], rtol, fmt::format("{}[{}]", at, i));
      if (!reason.empty()) return reason;
    }
    return "";
  }
  if (want.is_object()) {
    for (const auto& [key, value] : want.items()) {
      if (!got.is_object() || !got.contains(key)) return at + ": no " + key;
      const std::string reason = differs(got[key], value, rtol, at + "." + key);
      if (!reason.empty()) return reason;
    }
    return "";
  }
  return got == want ? "" : fmt::format("{}: {} where {} is expected", at, got.dump(), want.dump());
}

/// What an answer must reach: a proven optimum, or the best known with the case's margin.
std::string within(double value, const json& one, const char* unit) {
  const json& expected = one.at("expected");
  const double rtol = one.value("rtol", 0.0);
  const char* key = expected.contains("optimum_ms") ? "optimum_ms" : "best_known_ms";
  const double goal = expected.at(key).get<double>();
  if (value <= goal * (1 + rtol) + 1e-9) return "";
  return fmt::format("{} {} where {} is {}", value, unit, key, goal);
}

std::string check_choice(const json& one, const json& answer) {
  const json &in = one.at("input"), &choice = answer.at("choice");
  const auto layers = in.at("layers").get<std::vector<size_t>>();
  if (choice.size() != layers.size()) return "another number of layers";
  double cost = 0;
  int64_t memory = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto s = choice[i].get<size_t>();
    memory += in.at("memory").at(layers[i]).at(s).get<int64_t>();
    cost += in.at("time").at(layers[i]).at(s).get<double>();
    if (i > 0) cost += in.at("transition").at(choice[i - 1].get<size_t>()).at(s).get<double>();
  }
  if (memory > in.at("budget").get<int64_t>()) return fmt::format("{} MB are over the budget", memory);
  const double goal = one.at("expected").at("seconds").get<double>();
  return cost <= goal * (1 + one.value("rtol", 0.0)) + 1e-9 ? ""
                                                            : fmt::format("cost {} where {} is optimal", cost, goal);
}

/// Slowest group; -1 with a reason where the groups break a rule.
double groups_time(const json& in, const json& groups, std::set<int64_t>& seen, std::string& reason) {
  double slowest = 0;
  int64_t ranks = 0;
  for (const json& group : groups) {
    const auto degree = group.at("degree").get<int64_t>();
    const std::string key = std::to_string(degree);
    if (!in.at("comm_ms_per_token").contains(key)) return reason = "a degree without a price: " + key, -1;
    if (group.at("sequences").empty()) return reason = "an empty group", -1;
    const double comm = in.at("comm_ms_per_token").at(key).get<double>();
    double ms = in.at("beta").get<double>();
    int64_t tokens = 0;
    for (const json& index : group.at("sequences")) {
      const auto j = index.get<int64_t>();
      const json& length = in.at("lengths").at(j);
      const double s = length.get<double>();
      const double pairs = in.contains("pairs") ? in.at("pairs").at(j).get<double>() : s * s;
      ms += (in.at("alpha1").get<double>() * pairs + in.at("alpha2").get<double>() * s) / static_cast<double>(degree) +
            comm * s;
      tokens += length.get<int64_t>();
      if (!seen.insert(j).second) return reason = fmt::format("sequence {} stands twice", j), -1;
    }
    if (tokens > degree * in.at("tokens_per_rank").get<int64_t>()) return reason = "a group is over its memory", -1;
    ranks += degree;
    slowest = std::max(slowest, ms);
  }
  if (ranks > in.at("ranks").get<int64_t>()) return reason = fmt::format("{} ranks are used", ranks), -1;
  return slowest;
}

std::string check_flex(const json& one, const json& answer, bool step) {
  const json& in = one.at("input");
  std::set<int64_t> seen;
  std::string reason;
  double ms = 0;
  const json parts = step ? answer.at("micro_batches") : json::array({answer.at("groups")});
  for (const json& groups : parts) {
    const double time = groups_time(in, groups, seen, reason);
    if (!reason.empty()) return reason;
    ms += time;
  }
  if (seen.size() != in.at("lengths").size()) return "a sequence is in no group";
  const json& expected = one.at("expected");
  if (expected.contains("lower_bound_ms") && answer.contains("lower_bound_ms") &&
      answer.at("lower_bound_ms").get<double>() > ms * (1 + 1e-9)) {
    return "the bound is above the time";
  }
  return within(ms, one, "ms");
}

std::string check_schedule(const json& one, const json& answer) {
  const json& in = one.at("input");
  std::map<std::string, const json*> ops;
  std::map<std::string, int64_t> left;
  for (const json& op : in.at("meta_ops")) {
    ops[op.at("name")] = &op;
    left[op.at("name")] = op.at("layers").get<int64_t>();
  }
  double sum = 0;
  for (const json& wave : answer.at("waves")) {
    std::set<std::string> here;
    int64_t devices = 0;
    double longest = 0;
    for (const json& piece : wave) {
      const auto name = piece.at("op").get<std::string>();
      const auto layers = piece.at("layers").get<int64_t>();
      if (!here.insert(name).second) return name + " stands twice in a wave";
      if (layers < 1) return name + " has a piece without layers";
      for (const json& dep : ops.at(name)->at("deps")) {
        if (left.at(dep.get<std::string>()) != 0) return name + " runs before " + dep.get<std::string>() + " is done";
      }
      const std::string n = std::to_string(piece.at("devices").get<int64_t>());
      if (!ops.at(name)->at("times").contains(n)) return name + " has no time on " + n;
      longest = std::max(longest, static_cast<double>(layers) * ops.at(name)->at("times").at(n).get<double>());
      devices += piece.at("devices").get<int64_t>();
    }
    for (const json& piece : wave) left.at(piece.at("op").get<std::string>()) -= piece.at("layers").get<int64_t>();
    if (devices > in.at("devices").get<int64_t>()) return fmt::format("{} devices in a wave", devices);
    sum += longest;
  }
  for (const auto& [name, layers] : left) {
    if (layers != 0) return fmt::format("{} is left with {} layers", name, layers);
  }
  return within(sum, one, "ms");
}

std::string check_partition(const json& one, const json& answer) {
  const json& in = one.at("input");
  const auto cut = answer.at("boundaries").get<std::vector<size_t>>();
  const auto stages = in.at("stages").get<size_t>(), m = in.at("micro_batches").get<size_t>();
  const size_t count = in.at("layers").size();
  if (cut.size() + 1 != stages) return "another number of stages";
  std::vector<double> f(stages), b(stages), sync(stages), ends(stages, 0);
  for (size_t s = 0; s < stages; ++s) {
    const size_t first = s == 0 ? 0 : cut[s - 1], last = s + 1 < stages ? cut[s] : count;
    if (first >= last || last > count) return "an empty stage";
    double weights = 0, activation = 0;
    const auto add = [&](const json& layer) {
      f[s] += layer.at("forward_ms").get<double>();
      b[s] += layer.at("backward_ms").get<double>();
      sync[s] += layer.value("sync_ms", 0.0);
      weights += layer.at("weights_mb").get<double>();
      activation += layer.at("activation_mb").get<double>();
    };
    for (size_t i = first; i < last; ++i) add(in.at("layers").at(i));
    const double before = f[s] + b[s];
    if (s == 0) add(in.at("embed"));
    if (s + 1 == stages) add(in.at("head"));
    ends[s] = f[s] + b[s] - before;
    if (weights + static_cast<double>(std::min(m, stages - s)) * activation > in.at("budget_mb").get<double>() + 1e-9) {
      return fmt::format("stage {} is over the budget", s);
    }
  }
  double step = 0;
  if (in.at("cost") == "galvatron") {
    double sum = 0, others = 0, tail = 0, so_far = 0;
    for (size_t s = 0; s < stages; ++s) sum += f[s] + b[s], others += s > 0 ? f[s] + b[s] : 0;
    const double k = static_cast<double>(m), p = static_cast<double>(stages), c0 = f[0] + b[0];
    const double warm = std::min(p - 1, k - 1) * c0;
    for (size_t s = 0; s < stages; ++s) {
      so_far += f[s] + b[s];
      tail = std::max(tail, f[s] + b[s] - ends[s] + sync[s] - so_far);
    }
    step = std::max(sum + (f.back() + b.back()) * (k - 1), std::max(warm / 3, others / 3) +
                                                               std::max(warm * 2 / 3, others * 2 / 3) +
                                                               c0 * std::max(0.0, k + 1 - p)) +
           tail;
  } else {
    // Longest path: done[s][j] of forwards and backwards, in the order of 1F1B, by repeated relaxation.
    const double p2p = in.at("p2p_ms").get<double>();
    std::vector<std::vector<double>> fe(stages, std::vector<double>(m, 0)), be = fe;
    for (size_t round = 0; round < 2 * (stages + m); ++round) {
      for (size_t s = 0; s < stages; ++s) {
        const size_t warm = std::min(stages - 1 - s, m);
        double clock = 0;
        size_t forward = 0, backward = 0;
        while (backward < m) {
          if (forward < m && forward < warm + backward + 1) {
            clock = std::max(clock, s > 0 ? fe[s - 1][forward] + p2p : 0) + f[s];
            fe[s][forward++] = clock;
          } else {
            clock = std::max(clock, s + 1 < stages ? be[s + 1][backward] + p2p : 0) + b[s];
            be[s][backward++] = clock;
          }
        }
      }
    }
    for (size_t s = 0; s < stages; ++s) step = std::max(step, be[s][m - 1] + sync[s]);
  }
  if (!close(answer.at("step_ms").get<double>(), step, 1e-6)) return fmt::format("the step is {} ms", step);
  const double goal = one.at("expected").at("step_ms").get<double>();
  return step <= goal * (1 + one.value("rtol", 0.0)) + 1e-9 ? "" : fmt::format("{} ms where {} is optimal", step, goal);
}

std::string check_placement(const json& one, const json& answer) {
  const json &in = one.at("input"), &start = answer.at("start");
  const auto ranks = in.at("ranks").get<int64_t>(), island = in.at("island").get<int64_t>();
  std::map<std::string, double> weight;
  for (const json& op : in.at("meta_ops")) weight[op.at("name")] = op.at("weight_mb").get<double>();
  std::vector<std::set<std::string>> holds(ranks);
  std::map<std::string, int64_t> sizes;
  double cost = 0;
  for (const json& wave : in.at("waves")) {
    std::set<int64_t> taken;
    for (const json& piece : wave) {
      const auto name = piece.at("piece").get<std::string>();
      const auto n2 = piece.at("ranks").get<int64_t>(), s2 = start.at(name).get<int64_t>();
      if (s2 < 0 || s2 + n2 > ranks) return name + " leaves the ranks";
      for (int64_t r = s2; r < s2 + n2; ++r) {
        if (!taken.insert(r).second) return fmt::format("rank {} has two pieces in a wave", r);
        holds[r].insert(piece.at("op").get<std::string>());
      }
      sizes[name] = n2;
      for (const json& flow : piece.at("inputs")) {
        const auto from = flow.at("from").get<std::string>();
        const int64_t n1 = sizes.at(from), s1 = start.at(from).get<int64_t>();
        for (int64_t i = 0; i < n1; ++i) {
          for (int64_t j = 0; j < n2; ++j) {
            const auto part = [](int64_t x, int64_t n) { return static_cast<double>(x) / static_cast<double>(n); };
            const double share = std::min(part(i + 1, n1), part(j + 1, n2)) - std::max(part(i, n1), part(j, n2));
            if (share <= 0 || s1 + i == s2 + j) continue;
            const bool near = (s1 + i) / island == (s2 + j) / island;
            cost +=
                flow.at("mb").get<double>() * share * in.at(near ? "intra_ms_per_mb" : "inter_ms_per_mb").get<double>();
          }
        }
      }
    }
  }
  for (const auto& held : holds) {
    double mb = 0;
    for (const std::string& op : held) mb += weight.at(op);
    if (mb > in.at("memory_mb").get<double>() + 1e-6) return fmt::format("a rank holds {} MB", mb);
  }
  if (!close(answer.at("cost_ms").get<double>(), cost, 1e-6)) return fmt::format("the cost is {} ms", cost);
  const double naive = one.at("expected").at("naive_ms").get<double>();
  if (naive > 0 && cost >= naive) return fmt::format("{} ms are not below the naive {}", cost, naive);
  return within(cost, one, "ms");
}

std::string check_search(const json& one, const json& answer) {
  const json& in = one.at("input");
  const std::string reason =
      differs(answer.at("throughput"), one.at("expected").at("throughput"), one.value("rtol", 0.0), "throughput");
  if (!reason.empty()) return reason;
  int64_t layers = 0, cut = 0;
  const json& model = in.at("model");
  for (const json& type : model.is_array() ? model : json::array({model})) layers += type.at("layers").get<int64_t>();
  for (const json& n : answer.at("partition")) cut += n.get<int64_t>();
  if (cut != layers || static_cast<int64_t>(answer.at("layers").size()) != layers) return "another number of layers";
  // The plan has the stated throughput: the pipeline's formula, asked as its own case.
  json again = in;
  again["layers"] = answer.at("layers");
  again["partition"] = answer.at("partition");
  again["embed"] = answer.at("embed");
  again["micro_batches"] = answer.at("micro_batches");
  for (const json& s : answer.at("layers")) {
    const int64_t ranks =
        s.at("pp").get<int64_t>() * s.at("tp").get<int64_t>() * s.at("sp").get<int64_t>() * s.at("dp").get<int64_t>();
    if (ranks != in.at("world").get<int64_t>()) return "a strategy of another world";
  }
  return "";
}

}  // namespace

std::string check_answer(const json& one, const json& answer) {
  const auto op = one.at("op").get<std::string>();
  const json& expected = one.at("expected");
  const double rtol = one.value("rtol", 0.0);
  if (expected.contains("feasible")) {
    if (answer.value("feasible", true) != expected.at("feasible").get<bool>()) {
      return fmt::format("feasible: {} where {} is expected", answer.value("feasible", true),
                         expected.at("feasible").dump());
    }
    if (!expected.at("feasible").get<bool>()) return differs(answer, expected, rtol, "answer");
  }
  if (answer.contains("feasible") && !answer.at("feasible").get<bool>()) return "nothing was found";
  if (op == "plan.choose") return check_choice(one, answer);
  if (op == "flex.assign") return check_flex(one, answer, false);
  if (op == "flex.step") return check_flex(one, answer, true);
  if (op == "waves.schedule") return check_schedule(one, answer);
  if (op == "plan.partition") return check_partition(one, answer);
  if (op == "waves.place") return check_placement(one, answer);
  if (op == "galvatron.search") return check_search(one, answer);
  return differs(answer, expected, rtol, "answer");
}

}  // namespace unigrpo::planner

#include "planner/galvatron_file.h"

#include <charconv>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/text.h"
#include "planner/fields.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

template <typename Value>
std::string list(const std::vector<Strategy>& layers, Value value) {
  std::string out;
  for (const Strategy& s : layers) out += (out.empty() ? "" : ",") + std::to_string(value(s));
  return out;
}

/// "1,4,4" as whole numbers.
std::vector<int64_t> numbers(const Fields& in, const char* key) {
  std::vector<int64_t> out;
  const std::string text = in.text(key);
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + comma, value);
    if (error != std::errc() || end != text.data() + comma || value < 0 || value > Fields::kMany ||
        out.size() > 10'000) {
      throw BadInput("{}: {}: must be whole numbers joined by commas, got {}", in.where(), key, in_quotes(text));
    }
    out.push_back(value);
    at = comma + 1;
  }
  return out;
}

std::vector<int64_t> numbers_or(const Fields& in, const char* key, size_t count, int64_t fallback) {
  if (!in.has(key)) return std::vector<int64_t>(count, fallback);
  std::vector<int64_t> out = numbers(in, key);
  if (out.size() != count) {
    throw BadInput("{}: {}: has {} values, tp_sizes_enc has {}", in.where(), key, out.size(), count);
  }
  return out;
}

void refuse(const Fields& in, const char* key, int64_t allowed, const char* what) {
  if (!in.has(key)) return;
  const json& value = in.at(key);
  const std::vector<int64_t> values = value.is_string() ? numbers(in, key) : std::vector{in.integer(key, 0)};
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] != allowed) {
      throw BadInput("{}: {}: layer {} has {}; only {} is supported ({})", in.where(), key, i, values[i], allowed,
                     what);
    }
  }
}

}  // namespace

json galvatron_config(const Plan& plan, int default_zero) {
  if (plan.flexible_sp) throw BadInput("flexible_sp: groups by lengths cannot be said in Galvatron's form");
  if (!plan.waves.empty()) throw BadInput("waves: modules that share ranks cannot be said in Galvatron's form");
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    const Strategy& s = plan.layers[i];
    if (s.zero != 3 && s.shard_ranks() > 1 && s.dp > 1 && s.zero != default_zero) {
      throw BadInput("layer {}: ZeRO {} cannot be said in Galvatron's form beside a default of {}", i, s.zero,
                     default_zero == 0 ? "ddp" : "zero2");
    }
    if (s.zero != 0 && s.zero != 3 && s.dp == 1 && s.sp > 1) {
      throw BadInput("layer {}: ZeRO {} of an sp group without replicas cannot be said in Galvatron's form", i, s.zero);
    }
  }
  return {
      {"pp_deg", std::ssize(plan.partition)},
      {"tp_sizes_enc", list(plan.layers, [](const Strategy& s) { return s.split(); })},
      {"tp_consecutive_flags", list(plan.layers, [](const Strategy&) { return 1; })},
      {"dp_types_enc", list(plan.layers, [](const Strategy& s) { return s.zero == 3 ? 1 : 0; })},
      {"use_sp", list(plan.layers, [](const Strategy& s) { return s.sp > 1 ? 1 : 0; })},
      {"checkpoint", list(plan.layers, [](const Strategy& s) { return s.recompute ? 1 : 0; })},
      {"world_size", plan.world},
      {"global_bsz", plan.global_batch},
      {"chunks", plan.micro_batches},
      {"pp_division", std::accumulate(plan.partition.begin(), plan.partition.end(), std::string(),
                                      [](const std::string& text, int64_t n) {
                                        return text + (text.empty() ? "" : ",") + std::to_string(n);
                                      })},
      {"pipeline_type", plan.schedule == Schedule::gpipe ? "gpipe" : "pipedream_flush"},
      {"default_dp_type", default_zero == 0 ? "ddp" : "zero2"},
      {"vtp", std::max(plan.embed.tp, plan.embed.sp)},
      {"vsp", plan.embed.sp > 1 ? 1 : 0},
      {"embed_sdp", plan.embed.zero == 3 ? 1 : 0},
  };
}

Plan plan_from_galvatron(const json& config, int64_t world, const std::string& where) {
  const Fields in(config, where);
  refuse(in, "tp_consecutive_flags", 1, "neighbouring ranks");
  refuse(in, "cp_sizes_enc", 1, "no context parallelism");
  refuse(in, "vcp", 1, "no context parallelism");
  refuse(in, "ep_sizes_enc", 1, "no expert parallelism");
  refuse(in, "tp_of_ep_sizes_enc", 1, "no expert parallelism");
  Plan plan;
  plan.world = in.has("world_size") ? in.integer("world_size", 1) : world;
  if (plan.world == 0) throw BadInput("{}: 'world_size' is missing; give the number of ranks with --world", where);
  if (world != 0 && world != plan.world) {
    throw BadInput("{}: world_size: {}, the command asks for {}", where, plan.world, world);
  }
  const int64_t pp = in.integer("pp_deg", 1);
  plan.global_batch = in.integer("global_bsz", 1);
  plan.micro_batches = in.integer("chunks", 1);
  const std::vector<int64_t> degrees = numbers(in, "tp_sizes_enc");
  const size_t count = degrees.size();
  const std::vector<int64_t> sharded = numbers_or(in, "dp_types_enc", count, 0),
                             sp = numbers_or(in, "use_sp", count, 0),
                             recompute = numbers_or(in, "checkpoint", count, 0);
  plan.partition = numbers(in, "pp_division");
  if (std::ssize(plan.partition) != pp) {
    throw BadInput("{}: pp_division: has {} stages, pp_deg is {}", where, plan.partition.size(), pp);
  }
  const std::string schedule = in.has("pipeline_type") ? in.text("pipeline_type") : "pipedream_flush";
  if (schedule != "gpipe" && schedule != "pipedream_flush") {
    throw BadInput("{}: pipeline_type: must be gpipe | pipedream_flush, got {}", where, in_quotes(schedule));
  }
  plan.schedule = schedule == "gpipe" ? Schedule::gpipe : Schedule::one_f_one_b;
  const std::string kind = in.has("default_dp_type") ? in.text("default_dp_type") : "ddp";
  if (kind != "ddp" && kind != "zero2" && kind != "zero3") {
    throw BadInput("{}: default_dp_type: must be ddp | zero2 | zero3, got {}", where, in_quotes(kind));
  }
  const int default_zero = kind == "ddp" ? 0 : kind == "zero2" ? 2 : 3;
  for (size_t i = 0; i < count; ++i) {
    const int64_t t = degrees[i];
    if (t < 1 || pp * t > plan.world || plan.world % (pp * t) != 0) {
      throw BadInput("{}: tp_sizes_enc: layer {} has {}, which with {} stages does not divide a world of {}", where, i,
                     t, pp, plan.world);
    }
    Strategy s{.pp = pp,
               .tp = sp[i] ? 1 : t,
               .sp = sp[i] ? t : 1,
               .dp = plan.world / pp / t,
               .zero = 0,
               .recompute = recompute[i] != 0};
    if (s.dp > 1) s.zero = sharded[i] ? 3 : default_zero;
    plan.layers.push_back(s);
  }
  const int64_t vtp = in.has("vtp") ? in.integer("vtp", 1) : 1;
  const bool vsp = in.has("vsp") && in.integer("vsp", 0, 1) == 1;
  const bool sdp = in.has("embed_sdp") && in.integer("embed_sdp", 0, 1) == 1;
  plan.embed = {vsp ? 1 : vtp, vsp ? vtp : 1, sdp ? 3 : plan.world / pp / vtp > 1 ? default_zero : 0};
  check_plan(plan, where);
  return plan;
}

}  // namespace unigrpo::planner

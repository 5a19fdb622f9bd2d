#include "planner/plan_file.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "planner/galvatron_file.h"
#include "support/mutate.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

Plan sample_plan() {
  Plan plan{.world = 16, .global_batch = 64, .micro_batches = 8, .partition = {2, 1}, .embed = {1, 4, 3}, .layers = {}};
  plan.layers.assign(2, {.pp = 2, .tp = 4, .sp = 1, .dp = 2, .zero = 2, .recompute = true});
  plan.layers.push_back({.pp = 2, .tp = 1, .sp = 2, .dp = 4, .zero = 3, .recompute = false});
  plan.predicted = {12.5, 1.5, {100, 200}};
  plan.profile_hash = "abc";
  return plan;
}

std::string refusal(const json& object) {
  try {
    plan_from_json(object, "plan.json");
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

std::string galvatron_refusal(json config, int64_t world = 0) {
  try {
    plan_from_galvatron(config, world, "g.json");
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

TEST(PlanFile, ComesBackAsItWas) {
  const json written = plan_to_json(sample_plan());
  EXPECT_EQ(written["layers"].size(), 2U);  // equal neighbours once
  EXPECT_EQ(written["layers"][0]["repeat"], 2);
  const Plan plan = plan_from_json(written, "plan.json");
  EXPECT_EQ(plan.layers, sample_plan().layers);
  EXPECT_EQ(plan_to_json(plan).dump(), written.dump());
}

TEST(PlanFile, HoldsGroupsByLengthsAndWaves) {
  Plan plan = sample_plan();
  plan.flexible_sp = SequenceCost{
      .alpha1 = 1e-6, .alpha2 = 0.2, .beta = 60, .comm_ms_per_token = {{1, 0.0}, {8, 0.01}}, .tokens_per_rank = 6450};
  plan.waves = {{{"vit", 3, 8}, {"text", 2, 8}}, {{"lm", 12, 16}}};
  const json written = plan_to_json(plan);
  const Plan again = plan_from_json(written, "plan.json");
  EXPECT_EQ(plan_to_json(again).dump(), written.dump());
  EXPECT_EQ(again.flexible_sp->comm_ms_per_token, plan.flexible_sp->comm_ms_per_token);
  EXPECT_EQ(again.waves[1][0].op, "lm");
  const auto with = [&](const char* pointer, const json& value) {
    json changed = written;
    changed[json::json_pointer(pointer)] = value;
    return refusal(changed);
  };
  EXPECT_EQ(with("/flexible_sp/beta", -1),
            "plan.json: flexible_sp: beta: must be a finite number of at least 0, got '-1'");
  EXPECT_EQ(with("/flexible_sp/comm_ms_per_token/x", 1),
            "plan.json: flexible_sp: comm_ms_per_token: 'x': must be a number of ranks");
  EXPECT_EQ(with("/waves/0/1/devices", 9), "plan.json: waves[0]: 17 devices where the world is 16");
  EXPECT_EQ(with("/waves/1/0/layers", 0),
            "plan.json: waves[1][0]: layers: must be a whole number from 1 to 16777216, got '0'");
  EXPECT_EQ(with("/waves/1", json::object()), "plan.json: waves[1]: must be a list of pieces");
  EXPECT_THROW(galvatron_config(plan, 2), BadInput);
  plan.flexible_sp.reset();
  EXPECT_THROW(galvatron_config(plan, 2), BadInput);
}

TEST(PlanFile, NamesWhatIsWrong) {
  const auto with = [](const char* pointer, const json& value) {
    json plan = plan_to_json(sample_plan());
    plan[json::json_pointer(pointer)] = value;
    return refusal(plan);
  };
  EXPECT_EQ(with("/world", 12), "plan.json: layers[0]: pp * tp * sp * dp is not the world of 12");
  EXPECT_EQ(with("/world", -1), "plan.json: world: must be a whole number from 1 to 16777216, got '-1'");
  EXPECT_EQ(with("/layers/1/pp", 1), "plan.json: layers[2]: pp: 1 where the partition has 2 stages");
  EXPECT_EQ(with("/layers/0/recomputed", 1),
            "plan.json: layers[0]: unknown key 'recomputed', did you mean 'recompute'?");
  EXPECT_EQ(with("/partition", json::array({2, 2})), "plan.json: partition: holds 4 layers, 'layers' 3");
  EXPECT_EQ(with("/micro_batches", 7), "plan.json: micro_batches: 7 do not divide the batch of 64");
  EXPECT_EQ(with("/schedule", "zb"), "plan.json: schedule: must be 1f1b | gpipe, got 'zb'");
  EXPECT_EQ(with("/format", "x"), "plan.json: format: must be \"unigrpo-plan/1\", got 'x'");
  EXPECT_EQ(with("/predicted/step_ms", -1.0),
            "plan.json: predicted: step_ms: must be a finite number of at least 0, got '-1.0'");
  EXPECT_EQ(with("/layers/0/recompute", 1), "plan.json: layers[0]: recompute: must be true or false, got '1'");
  EXPECT_EQ(with("/layers/0/repeat", 1000000),
            "plan.json: layers[0]: repeat: must be a whole number from 1 to 10000, got '1000000'");
  EXPECT_EQ(refusal(json::array()), "plan.json: expected a JSON object, got array");
}

TEST(PlanFile, DamagedFilesAreRefusedOrRead) {
  RandomStream random({.seed = 70});
  Plan whole = sample_plan();
  whole.flexible_sp = SequenceCost{.comm_ms_per_token = {{1, 0.0}}, .tokens_per_rank = 100};
  whole.waves = {{{"vit", 3, 8}}};
  const std::string good = plan_to_json(whole).dump();
  for (int round = 0; round < 4000; ++round) {
    try {
      plan_from_json(io::parse_json(testing::mutate(good, random), "f"), "f");
    } catch (const BadInput&) {
    }
  }
}

TEST(GalvatronFile, ComesBackAsItWas) {
  const json config = galvatron_config(sample_plan(), 2);
  const Plan plan = plan_from_galvatron(config, 0, "g.json");
  EXPECT_EQ(plan.layers, sample_plan().layers);
  EXPECT_EQ(galvatron_config(plan, 2), config);
  json bare = config;  // as the published example: no world, no use_sp, vtp, vsp
  for (const char* key : {"world_size", "vtp", "vsp"}) bare.erase(key);
  EXPECT_EQ(plan_from_galvatron(bare, 16, "g.json").layers, sample_plan().layers);
  EXPECT_EQ(galvatron_refusal(bare), "g.json: 'world_size' is missing; give the number of ranks with --world");
}

TEST(GalvatronFile, RefusesWhatIsNotSupported) {
  const auto with = [](const char* key, const json& value) {
    json config = galvatron_config(sample_plan(), 2);
    config[key] = value;
    return galvatron_refusal(config);
  };
  EXPECT_EQ(with("tp_consecutive_flags", "1,0,1"),
            "g.json: tp_consecutive_flags: layer 1 has 0; only 1 is supported (neighbouring ranks)");
  EXPECT_EQ(with("cp_sizes_enc", "1,1,2"),
            "g.json: cp_sizes_enc: layer 2 has 2; only 1 is supported (no context parallelism)");
  EXPECT_EQ(with("ep_sizes_enc", "2,1,1"),
            "g.json: ep_sizes_enc: layer 0 has 2; only 1 is supported (no expert parallelism)");
  EXPECT_EQ(with("tp_sizes_enc", "4,3,2"),
            "g.json: tp_sizes_enc: layer 1 has 3, which with 2 stages does not divide a world of 16");
  EXPECT_EQ(with("checkpoint", "1,1"), "g.json: checkpoint: has 2 values, tp_sizes_enc has 3");
  EXPECT_EQ(with("pp_division", "1,1,1"), "g.json: pp_division: has 3 stages, pp_deg is 2");
  EXPECT_EQ(with("use_sp", "a"), "g.json: use_sp: must be whole numbers joined by commas, got 'a'");
}

TEST(GalvatronFile, CannotSayZero1) {
  Plan plan = sample_plan();
  plan.layers[1].zero = 1;
  try {
    galvatron_config(plan, 2);
    FAIL();
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(), "layer 1: ZeRO 1 cannot be said in Galvatron's form beside a default of zero2");
  }
}

TEST(GalvatronFile, DamagedFilesAreRefusedOrRead) {
  RandomStream random({.seed = 71});
  const std::string good = galvatron_config(sample_plan(), 2).dump();
  for (int round = 0; round < 4000; ++round) {
    try {
      plan_from_galvatron(io::parse_json(testing::mutate(good, random), "f"), 16, "f");
    } catch (const BadInput&) {
    }
  }
}

}  // namespace
}  // namespace unigrpo::planner

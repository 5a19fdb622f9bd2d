#include "planner/profile.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "planner/profile_folder.h"
#include "support/mutate.h"
#include "support/temp_folder.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

const json& published() {
  static const json all = io::read_json_file(std::filesystem::path(UNIGRPO_TEST_DATA) / "planner" / "profiles.json");
  return all["A"];
}

ModelProfile read_model(const json& computation, const json& memory, ProfileMode mode, int64_t seq) {
  return read_model_profile({computation, "c.json"}, {memory, "m.json"},
                            {.types = {{28, 4096, seq}}, .time = mode, .memory = mode});
}

template <typename Read>
std::string refusal(Read read) {
  try {
    read();
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Profile, SequenceModeFitsAParabolaAndScales) {
  const ModelProfile model = read_model(published()["computation"], published()["memory"], ProfileMode::sequence, 4096);
  EXPECT_NEAR(model.types[0].parameter_mb, 973.771484375, 1e-9);  // of the smallest length
  EXPECT_NEAR(at_degree(model.types[0].activation_mb, 2), 1044.144775390625 / 2, 1e-9);
  EXPECT_NEAR(at_degree(model.types[0].activation_mb, 16), 261.03619384765625 / 4, 1e-9);  // half of the next smaller
  EXPECT_NEAR(model.types[0].checkpoint_mb, 28, 1e-9);
}

TEST(Profile, BatchModeIsALineOverTheBatch) {
  json times = {{"layertype_other_bsz1_seq64", 1.0}};
  for (int b = 1; b <= 8; ++b) {
    times["layertype_0_bsz" + std::to_string(b) + "_seq64"] = (3.0 * b + 2) / b;
    times["layertype_other_bsz" + std::to_string(b) + "_seq64"] = 1.0;
  }
  const ModelProfile model =
      read_model_profile({times, "c.json"}, {published()["memory"], "m.json"},
                         {.types = {{28, 4096, 64}}, .time = ProfileMode::batch, .memory = ProfileMode::sequence});
  EXPECT_NEAR(model.types[0].forward_ms.slope, 3, 1e-9);
  EXPECT_NEAR(model.types[0].forward_ms.offset, 2, 1e-9);
}

TEST(Profile, NamesTheMissingEntry) {
  json computation = published()["computation"], memory = published()["memory"];
  EXPECT_EQ(refusal([&] { read_model(computation, memory, ProfileMode::at_length, 4095); }),
            "m.json: layertype_0_sp: '4095' is missing");
  computation["layertype_0_bsz1_seq8192"] = -1.0;
  EXPECT_EQ(refusal([&] { read_model(computation, memory, ProfileMode::at_length, 8192); }),
            "c.json: 'layertype_0_bsz1_seq8192' must be a finite number of at least 0, got -1.0");
  computation.erase("layertype_0_bsz1_seq8192");
  EXPECT_EQ(refusal([&] { read_model(computation, memory, ProfileMode::at_length, 8192); }),
            "c.json: 'layertype_0_bsz1_seq8192' is missing");
  memory.erase("other_memory_pp_off_sp");
  EXPECT_EQ(refusal([&] { read_model(published()["computation"], memory, ProfileMode::at_length, 8192); }),
            "m.json: 'other_memory_pp_off' is missing");
  memory["layertype_0_sp"]["8192"].erase("parameter_size");
  EXPECT_EQ(refusal([&] { read_model(published()["computation"], memory, ProfileMode::at_length, 8192); }),
            "m.json: layertype_0_sp: 8192: 'parameter_size' is missing");
}

TEST(Profile, HardwareFilesAreHeldToTheirKeys) {
  const json& a = published();
  const auto read = [&](const json& overlap, const json& sp) {
    return refusal([&] {
      read_hardware_profile({a["allreduce_bandwidth"], "a.json"}, {a["p2p_bandwidth"], "p.json"}, {overlap, "o.json"},
                            {sp, "s.json"});
    });
  };
  EXPECT_EQ(read({{"overlap_coe", 1.1}}, a["sp_time"]), "accepted");
  EXPECT_EQ(read(json::object(), a["sp_time"]), "o.json: 'overlap_coe' is missing");
  EXPECT_EQ(read({{"overlap_coe", 0.9}}, a["sp_time"]), "o.json: 'overlap_coe' must be at least 1, got 0.9");
  json sp = a["sp_time"];
  for (const char* size : {"1", "2", "4", "8"}) sp.erase(std::string("allreduce_size_2_") + size + "MB_time");
  EXPECT_EQ(read({{"overlap_coe", 1.1}}, sp), "s.json: 'allreduce_size_2_*MB_time' has 7 sizes, 8 or more are needed");
}

TEST(Profile, DamagedFilesAreRefusedOrRead) {
  RandomStream random({.seed = 72});
  const std::string times = published()["computation"].dump(), memory = published()["memory"].dump();
  for (int round = 0; round < 1500; ++round) {
    const bool first = random.chance(0.5);
    try {
      read_model(io::parse_json(first ? testing::mutate(times, random) : times, "c"),
                 io::parse_json(first ? memory : testing::mutate(memory, random), "m"), ProfileMode::sequence, 8192);
    } catch (const BadInput&) {
    }
  }
}

TEST(Profile, DamagedHardwareFilesAreRefusedOrRead) {
  RandomStream random({.seed = 74});
  const json& a = published();
  const std::string good[] = {a["allreduce_bandwidth"].dump(), a["p2p_bandwidth"].dump(),
                              a["overlap_coefficient"].dump(), a["sp_time"].dump()};
  for (int round = 0; round < 2000; ++round) {
    json files[4];
    const uint64_t damaged = random.below(4);
    try {
      for (size_t i = 0; i < 4; ++i)
        files[i] = io::parse_json(i == damaged ? testing::mutate(good[i], random) : good[i], "f");
      read_hardware_profile({files[0], "a"}, {files[1], "p"}, {files[2], "o"}, {files[3], "s"});
    } catch (const BadInput&) {
    }
  }
}

TEST(ProfileFolder, WhatIsWrittenIsRead) {
  const testing::TempFolder folder;
  const ModelShape shape{
      .layers = 28, .hidden = 3584, .intermediate = 18944, .heads = 28, .kv_heads = 4, .vocab = 152064, .experts = 2};
  const SampleShape sample{.tokens = 4096};
  const PlannedModel model = analytic_model(shape, sample, 400);
  write_model_profile(model, "bagel", folder.path());
  write_hardware_profile(counted_hardware(Cluster{.nodes = 2}, 1.2), 2, 8, folder.path());
  const ProfileFolder found = open_profile(folder.path());
  EXPECT_EQ(found.nodes, 2);
  EXPECT_EQ(found.hash.size(), 64U);
  const LoadedProfile loaded = load_profile(found, {.types = {{28, 3584, 4096}}});
  const PlannedModel again = planned_model(loaded, shape, sample);
  EXPECT_NEAR(again.layers[0].forward_ms.at(1), model.layers[0].forward_ms.at(1), 1e-9);
  EXPECT_NEAR(again.layers[0].parameter_mb, model.layers[0].parameter_mb, 1e-6);
  EXPECT_NEAR(again.head.activation_mb, model.head.activation_mb, 1e-6);
  EXPECT_NEAR(again.overlap, 1.2, 1e-12);
  EXPECT_NEAR(profiled_cluster(found, loaded.hardware).intra_gbps, 160, 5);  // the bus bandwidth less latencies
  std::filesystem::remove(found.p2p);
  EXPECT_EQ(refusal([&] { open_profile(folder.path()); }),
            folder.path().string() + ": p2p_bandwidth_*.json is missing");
}

TEST(ProfileFolder, MeasuredTimesAndBytesAreThoseOfALayerAndOfTheEnds) {
  const testing::TempFolder folder;
  // 2 + 3 ms a layer and sample, 5 ms of ends; of batches 2 x that.
  MeasuredModel model{.name = "m",
                      .times = {{1, 1, 64, 8}, {3, 1, 64, 14}, {1, 2, 64, 16}, {3, 2, 64, 28}},
                      .seq = 64,
                      .with_few = {.parameter_mb = 30, .activation_mb = 9, .checkpoint_mb = 2},
                      .with_many = {.parameter_mb = 50, .activation_mb = 17, .checkpoint_mb = 4},
                      .embed_parameter_mb = 12,
                      .embed_activation_mb = 1};
  write_model_profile(model, folder.path());
  write_hardware_profile(counted_hardware(Cluster{.nodes = 2}, 1.2), 2, 8, folder.path());
  const LoadedProfile loaded = load_profile(open_profile(folder.path()), {.types = {{28, 128, 64}}});
  EXPECT_DOUBLE_EQ(loaded.model.types[0].forward_ms.at(1), 3);
  EXPECT_DOUBLE_EQ(loaded.model.ends_ms.at(1), 5);
  EXPECT_DOUBLE_EQ(loaded.model.types[0].parameter_mb, 10);
  EXPECT_DOUBLE_EQ(at_degree(loaded.model.types[0].activation_mb, 1), 4);
  EXPECT_DOUBLE_EQ(at_degree(loaded.model.types[0].activation_mb, 2), 2);
  EXPECT_DOUBLE_EQ(loaded.model.types[0].checkpoint_mb, 1);
  EXPECT_DOUBLE_EQ(at_degree(loaded.model.first.states_mb, 1), 4 * 12);
  EXPECT_DOUBLE_EQ(at_degree(loaded.model.last.states_mb, 1), 4 * 8);
  EXPECT_DOUBLE_EQ(at_degree(loaded.model.last.activation_mb, 1), 4);
  model.times[1].ms = 7;
  EXPECT_THROW(write_model_profile(model, folder.path()), RuntimeFailure);
}

}  // namespace
}  // namespace unigrpo::planner

#include "parallel/world.h"

#include <gtest/gtest.h>

#include <map>

#include "base/error.h"

namespace unigrpo::parallel {
namespace {

using Table = std::map<std::string, std::string>;

Environment environment_of(const Table& table) {
  return [&](const std::string& name) -> std::optional<std::string> {
    const auto found = table.find(name);
    return found == table.end() ? std::nullopt : std::optional(found->second);
  };
}

World world_of(const Table& table) { return read_world(environment_of(table)); }

std::string refusal(const Table& table) {
  try {
    world_of(table);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "no error";
}

Table with(Table table, const Table& more) {
  for (const auto& [name, value] : more) table[name] = value;
  return table;
}

const Table kPlain = {
    {"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "7"}};
const Table kSrun = {{"SLURM_PROCID", "5"},   {"SLURM_STEP_NUM_TASKS", "8"},
                     {"SLURM_LOCALID", "1"},  {"SLURM_STEP_NODELIST", "gpu[07-08,11]"},
                     {"SLURM_JOB_ID", "123"}, {"SLURM_STEP_ID", "2"},
                     {"SLURM_NTASKS", "8"}};

TEST(World, WithoutALauncherIsOneProcess) {
  const World world = world_of({});
  EXPECT_FALSE(world.launched);
  EXPECT_EQ(world.size, 1);
  EXPECT_FALSE(world_of({{"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}, {"LOCAL_RANK", "0"}}).launched);
}

TEST(World, PlainNamesAreRead) {
  const World world = world_of(kPlain);
  EXPECT_TRUE(world.launched);
  EXPECT_EQ(world.rank, 3);
  EXPECT_EQ(world.size, 4);
  EXPECT_EQ(world.local_rank, 1);
  EXPECT_EQ(world.address, "a");
  EXPECT_EQ(world.port, 7);
  EXPECT_FALSE(world.launcher_has_store);
}

TEST(World, TorchrunsAgentHoldsTheStore) {
  const World world = world_of(with(
      kPlain,
      {{"TORCHELASTIC_USE_AGENT_STORE", "True"}, {"TORCHELASTIC_RUN_ID", "abc"}, {"TORCHELASTIC_RESTART_COUNT", "2"}}));
  EXPECT_TRUE(world.launcher_has_store);
  EXPECT_EQ(world.run_id, "abc");
  EXPECT_EQ(world.restart, 2);
}

TEST(World, OneLaunchedRankNeedsNoAddress) {
  const World world = world_of({{"RANK", "0"}, {"WORLD_SIZE", "1"}});
  EXPECT_TRUE(world.launched);
  EXPECT_EQ(world.size, 1);
}

TEST(World, AStepOfSlurmIsRead) {
  const World world = world_of(kSrun);
  EXPECT_EQ(world.rank, 5);
  EXPECT_EQ(world.size, 8);
  EXPECT_EQ(world.local_rank, 1);
  EXPECT_EQ(world.address, "gpu07");
  EXPECT_EQ(world.port, 15000 + 123 * 7 + 2);
  EXPECT_EQ(world_of(with(kSrun, {{"MASTER_ADDR", "b"}, {"MASTER_PORT", "9"}})).address, "b");
}

TEST(World, ABatchScriptIsOneProcess) {
  EXPECT_FALSE(
      world_of({{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}, {"SLURM_JOB_ID", "1"}}).launched);
}

TEST(World, TorchrunUnderSrunIsNoContradiction) {
  const World world = world_of(with(kSrun, kPlain));
  EXPECT_EQ(world.rank, 3);
  EXPECT_EQ(world.size, 4);
}

TEST(World, OpenMpiAndPmiAreRead) {
  const Table where = {{"MASTER_ADDR", "a"}, {"MASTER_PORT", "7"}};
  const Table open_mpi = {
      {"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}};
  EXPECT_EQ(world_of(with(open_mpi, where)).rank, 1);
  EXPECT_EQ(world_of(with({{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}}, where)).size, 3);
  EXPECT_NE(refusal(open_mpi).find("MASTER_ADDR is not set, MASTER_PORT is not set: 2 ranks need an address"),
            std::string::npos);
}

TEST(World, HalfOfASetIsRefusedWithItsVariables) {
  EXPECT_EQ(
      refusal({{"RANK", "0"}}),
      "the launcher has told half of where this process stands: RANK=0, WORLD_SIZE is not set, LOCAL_RANK is not set");
  EXPECT_NE(refusal({{"WORLD_SIZE", "2"}}).find("RANK is not set, WORLD_SIZE=2"), std::string::npos);
  EXPECT_NE(refusal(with(kSrun, {{"WORLD_SIZE", "8"}})).find("RANK is not set, WORLD_SIZE=8"), std::string::npos);
  EXPECT_NE(refusal({{"RANK", "0"}, {"WORLD_SIZE", "2"}}).find("MASTER_ADDR is not set"), std::string::npos);
  EXPECT_NE(refusal({{"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_LOCALID", "0"}}).find("SLURM_PROCID is not set"),
            std::string::npos);
  EXPECT_NE(refusal({{"OMPI_COMM_WORLD_RANK", "2"}}).find("OMPI_COMM_WORLD_SIZE is not set"), std::string::npos);
  EXPECT_NE(refusal({{"PMI_SIZE", "2"}}).find("PMI_RANK is not set"), std::string::npos);
}

TEST(World, WhatCannotBeIsRefused) {
  EXPECT_NE(refusal(with(kPlain, {{"RANK", "4"}})).find("RANK=4, WORLD_SIZE=4, LOCAL_RANK=1: expected a rank below 4"),
            std::string::npos);
  EXPECT_EQ(refusal(with(kPlain, {{"RANK", "x"}})), "RANK='x': expected a whole number from 0 to 2147483647");
  EXPECT_EQ(refusal(with(kPlain, {{"WORLD_SIZE", "-2"}})),
            "WORLD_SIZE='-2': expected a whole number from 0 to 2147483647");
  EXPECT_EQ(refusal(with(kPlain, {{"MASTER_PORT", "70000"}})),
            "MASTER_PORT='70000': expected a whole number from 0 to 65535");
  EXPECT_NE(refusal({{"RANK", "0"}, {"WORLD_SIZE", "0"}}).find("expected at least one rank"), std::string::npos);
  EXPECT_NE(refusal(with(kPlain, {{"RANK", "0"}})).find("expected a local rank of at most the rank"),
            std::string::npos);
}

TEST(World, LaunchersThatDisagreeAreRefused) {
  const std::string text = refusal(with(kSrun, {{"PMI_RANK", "1"}, {"PMI_SIZE", "8"}}));
  EXPECT_NE(text.find("srun and PMI disagree: SLURM_PROCID=5, SLURM_STEP_NUM_TASKS=8; PMI_RANK=1, PMI_SIZE=8"),
            std::string::npos)
      << text;
  EXPECT_EQ(world_of(with(kSrun, {{"PMI_RANK", "5"}, {"PMI_SIZE", "8"}})).rank, 5);
}

TEST(World, ADeviceARank) {
  const auto device_of = [](const Table& table, const std::string& text) {
    return device_of_rank(world_of(table), text, "policy.device", environment_of(table));
  };
  Table two = kPlain;  // local rank 1
  EXPECT_EQ(device_of(two, "cpu"), "cpu");
  EXPECT_EQ(device_of(two, "cuda"), "cuda:1");
  two["CUDA_VISIBLE_DEVICES"] = "4,5";
  EXPECT_EQ(device_of(two, "cuda"), "cuda:1");
  two["CUDA_VISIBLE_DEVICES"] = "5";
  EXPECT_EQ(device_of(two, "cuda"), "cuda:0");
  EXPECT_EQ(device_of({}, "cuda:2"), "cuda:2");
  const Table first = {{"RANK", "0"},        {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "2"},
                       {"MASTER_ADDR", "a"}, {"MASTER_PORT", "7"}};
  for (const Table& shared : {two, first}) {
    try {
      device_of(shared, "cuda:0");
      FAIL();
    } catch (const BadInput& error) {
      EXPECT_STREQ(error.what(),
                   "policy.device: \"cuda:0\" is one device, and 2 ranks of this machine would share it; "
                   "expected \"cuda\": a device a rank");
    }
  }
}

TEST(World, TheFirstHostOfASlurmList) {
  EXPECT_EQ(first_host("node1"), "node1");
  EXPECT_EQ(first_host("node1,node2"), "node1");
  EXPECT_EQ(first_host("node[07-09,12],other"), "node07");
  EXPECT_EQ(first_host("node[12]"), "node12");
  EXPECT_EQ(first_host("a,node[1-2]"), "a");
  EXPECT_EQ(first_host("rack[1-2]node[3,4],x"), "rack1node3");
  EXPECT_EQ(first_host("node[1-2].example.org"), "node1.example.org");
}

}  // namespace
}  // namespace unigrpo::parallel

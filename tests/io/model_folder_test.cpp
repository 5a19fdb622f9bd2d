#include "io/model_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

using ::unigrpo::testing::TempFolder;

constexpr const char* kFirst = "model-00001-of-00002.safetensors";
constexpr const char* kSecond = "model-00002-of-00002.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

void write_tensor(const std::filesystem::path& path, const std::string& name) {
  static const std::string kData = "data";
  const TensorView view{name, DType::u8, {4}, std::as_bytes(std::span(kData.data(), kData.size()))};
  write_safetensors(path, std::span(&view, 1));
}

/// Two shards with tensors "a" and "b"; the index is for the test to write.
struct Shards : TempFolder {
  Shards() {
    write_tensor(path() / kFirst, "a");
    write_tensor(path() / kSecond, "b");
  }
};

std::string weight_map(const std::string& a, const std::string& b) {
  return R"({"metadata":{"total_size":8},"weight_map":{"a":")" + a + R"(","b":")" + b + "\"}}";
}

std::string refusal(const std::filesystem::path& path) {
  try {
    Checkpoint::open(path);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

void expect_refusal(const std::filesystem::path& path, const std::string& complaint) {
  const std::string message = refusal(path);
  EXPECT_NE(message.find(complaint), std::string::npos) << message;
  EXPECT_NE(message.find(kIndex), std::string::npos) << message;
}

TEST(Checkpoint, OpensShardsByFolderAndByIndex) {
  const Shards folder;
  folder.write(kIndex, weight_map(kFirst, kSecond));
  for (const auto& path : {folder.path(), folder.path() / kIndex}) {
    const Checkpoint checkpoint = Checkpoint::open(path);
    ASSERT_EQ(checkpoint.tensors().size(), 2U);
    EXPECT_EQ(checkpoint.tensors()[0]->name, "a");
    EXPECT_NE(checkpoint.find("b"), nullptr);
    EXPECT_EQ(checkpoint.find("c"), nullptr);
    EXPECT_EQ(checkpoint.path(), path);
  }
}

TEST(Checkpoint, OpensTheOnlyFileOfAFolder) {
  const TempFolder folder;
  EXPECT_NE(refusal(folder.path()).find("holds 0 .safetensors files"), std::string::npos);
  write_tensor(folder.path() / "ema.safetensors", "w");
  EXPECT_EQ(Checkpoint::open(folder.path()).tensors().size(), 1U);
  write_tensor(folder.path() / "ae.safetensors", "w");
  EXPECT_NE(refusal(folder.path()).find("holds 2 .safetensors files"), std::string::npos);
}

TEST(Checkpoint, RefusesAnIndexOfTheWrongForm) {
  const Shards folder;
  for (const auto& [text, complaint] : std::vector<std::pair<std::string, std::string>>{
           {"", "invalid JSON"},
           {"[]", "must be a JSON object"},
           {"{}", "weight_map is missing"},
           {R"({"weight_map":null})", "weight_map must be an object"},
           {R"({"weight_map":["a"]})", "weight_map must be an object"},
           {R"({"weight_map":{}})", "weight_map is empty"},
           {R"({"metadata":3,"weight_map":{"a":"x.safetensors"}})", "metadata must be an object"},
           {R"({"weight_map":{"a":1}})", "tensor 'a'"},
           {R"({"weight_map":{"a":null}})", "tensor 'a'"},
           {R"({"weight_map":{"a":["x.safetensors"]}})", "tensor 'a'"},
           {R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})", "duplicate key 'a'"},
           {R"({"weight_map":{"a":"none.safetensors"}})", "is not in the folder"}}) {
    folder.write(kIndex, text);
    expect_refusal(folder.path(), complaint);
  }
}

TEST(Checkpoint, ShardNamesStayInTheFolder) {
  const Shards folder;
  const std::string name = folder.path().filename().string();
  for (const std::string& odd : {std::string("../") + name + "/" + kSecond, (folder.path() / kSecond).string(),
                                 std::string("./") + kSecond, std::string("..\\\\") + kSecond, std::string(".."),
                                 std::string(""), std::string("config.json"), std::string(kSecond) + "\\u0000",
                                 std::string("https://host/") + kSecond, std::string(300, 'x') + ".safetensors"}) {
    folder.write(kIndex, weight_map(kFirst, odd));
    expect_refusal(folder.path(), "weight_map: tensor 'b'");
  }
}

TEST(Checkpoint, IndexAndShardsMustAgree) {
  const Shards folder;
  folder.write(kIndex, weight_map(kFirst, kFirst));
  expect_refusal(folder.path(), kSecond);
  folder.write(kIndex, weight_map(kSecond, kFirst));
  expect_refusal(folder.path(), "tensor 'a'");
  folder.write(kIndex, std::string(R"({"weight_map":{"a":")") + kFirst + "\"}}");
  expect_refusal(folder.path(), kSecond);
  expect_refusal(folder.path() / kIndex, kSecond);
  folder.write(kIndex, weight_map(kFirst, kSecond));
  write_tensor(folder.path() / kSecond, "c");
  expect_refusal(folder.path(), "lacks tensor 'c'");
  write_tensor(folder.path() / kSecond, "a");
  expect_refusal(folder.path(), "tensor 'a'");
  folder.write(kSecond, "damaged");
  expect_refusal(folder.path(), kSecond);
}

TEST(Checkpoint, AFileBesideTheShardsIsRefusedInAFolderOnly) {
  const Shards folder;
  folder.write(kIndex, weight_map(kFirst, kSecond));
  write_tensor(folder.path() / "ae.safetensors", "x");
  expect_refusal(folder.path(), "'ae.safetensors'");
  EXPECT_EQ(Checkpoint::open(folder.path() / kIndex).tensors().size(), 2U);
  folder.write("other.safetensors.index.json", "{}");
  expect_refusal(folder.path(), "2 index files");
}

TEST(Checkpoint, LinksLeadWithinTheFolderOrIntoTheHubCache) {
  namespace fs = std::filesystem;
  const TempFolder cache;
  const fs::path snapshot = cache.path() / "snapshots" / "abc";
  fs::create_directories(snapshot);
  fs::create_directories(cache.path() / "blobs");
  fs::create_directories(cache.path() / "elsewhere");
  write_tensor(cache.path() / "blobs" / "1234", "a");
  write_tensor(cache.path() / "elsewhere" / "b.safetensors", "b");
  fs::create_symlink("../../blobs/1234", snapshot / kFirst);
  fs::create_symlink("../../elsewhere/b.safetensors", snapshot / kSecond);
  std::ofstream(snapshot / kIndex) << weight_map(kFirst, kSecond);
  expect_refusal(snapshot, "is a link out of the folder");
  fs::remove(snapshot / kSecond);
  write_tensor(snapshot / kSecond, "b");
  EXPECT_EQ(Checkpoint::open(snapshot).tensors().size(), 2U);
}

}  // namespace
}  // namespace unigrpo::io

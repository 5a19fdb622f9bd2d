#include "io/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <iterator>

#include "base/error.h"
#include "base/fault.h"
#include "base/rng.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/model_folder.h"
#include "io/safetensors_header.h"
#include "support/malformed_cases.h"
#include "support/mutate.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

using ::unigrpo::testing::MalformedCase;
using ::unigrpo::testing::TempFolder;

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// A file with this header and data; the length is that of the header.
std::string file_of(std::string_view header, std::string_view data = "") {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xFF);
  bytes += header;
  bytes += data;
  return bytes;
}

/// The message with which opening fails; empty where it succeeds.
std::string refusal(const std::filesystem::path& path) {
  try {
    Checkpoint::open(path);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "";
}

class Manifest : public ::testing::TestWithParam<MalformedCase> {};

TEST_P(Manifest, GetsItsVerdict) {
  const MalformedCase& c = GetParam();
  const std::string message = refusal(c.path);
  if (!c.accept) {
    ASSERT_FALSE(message.empty()) << "accepted";
    EXPECT_TRUE(unigrpo::testing::names_the_fault(c, message)) << message;
    return;
  }
  ASSERT_EQ(message, "");
  const Checkpoint checkpoint = Checkpoint::open(c.path);
  const auto& contents = c.all.at("contents");
  EXPECT_EQ(checkpoint.tensors().size(), contents.size());
  for (const auto& expected : contents) {
    const TensorView* view = checkpoint.find(expected.at("name").get<std::string>());
    ASSERT_NE(view, nullptr) << expected;
    EXPECT_EQ(dtype_name(view->dtype), expected.at("dtype").get<std::string>());
    EXPECT_EQ(view->shape, expected.at("shape").get<std::vector<int64_t>>());
    EXPECT_EQ(sha256_hex(as_text(view->bytes)), expected.at("sha256").get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Safetensors, Manifest, ::testing::ValuesIn(unigrpo::testing::malformed_cases("safetensors")),
                         unigrpo::testing::case_name);

struct HeaderCase {
  std::string name;
  std::string header;
  std::string data;
  std::string complaint;  // must be in the message
};

void PrintTo(const HeaderCase& c, std::ostream* out) { *out << c.name; }

std::string entry(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"({{"w":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape, offsets);
}

std::string two(std::string_view offsets_a, std::string_view offsets_b) {
  return fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":{}}},)"
                     R"("b":{{"dtype":"U8","shape":[4],"data_offsets":{}}}}})",
                     offsets_a, offsets_b);
}

std::vector<HeaderCase> bad_headers() {
  const std::string eight(8, 'x');
  const std::string good = entry("\"F32\"", "[2]", "[0,8]");
  const std::string w = "tensor 'w': ";
  return {
      {"empty_object_rest", "{}", "x", "1 trailing bytes belong to none"},
      {"leading_space", " " + good, eight, "first byte must be '{'"},
      {"leading_bom", "\xEF\xBB\xBF" + good, eight, "first byte must be '{'"},
      {"newline_padding", good + "\n", eight, "only spaces are allowed"},
      {"tab_padding", good + "  \t  ", eight, "only spaces are allowed"},
      {"cut_json", good.substr(0, good.size() - 2), eight, "invalid JSON"},
      {"only_brace", "{", "", "invalid JSON"},
      {"comment", "{/**/}", "", "invalid JSON"},
      {"single_quotes", "{'a':1}", "", "invalid JSON"},
      {"trailing_comma", good.substr(0, good.size() - 1) + ",}", eight, "invalid JSON"},
      {"nan", entry("\"F32\"", "[NaN]", "[0,8]"), eight, "invalid JSON"},
      {"lone_surrogate", "{\"\\ud800\":{}}", "", "lone surrogate"},
      {"entry_null", R"({"w":null})", "", w + "must be an object"},
      {"entry_string", R"({"w":"x"})", "", w + "must be an object"},
      {"entry_empty", R"({"w":{}})", "", w + "dtype is missing"},
      {"no_shape", R"({"w":{"dtype":"U8","data_offsets":[0,0]}})", "", w + "shape is missing"},
      {"dtype_lower_case", entry("\"f32\"", "[2]", "[0,8]"), eight, w + "dtype 'f32' is not known"},
      {"dtype_packed", entry("\"F4\"", "[2]", "[0,1]"), "x", w + "dtype 'F4' is not known"},
      {"dtype_null", entry("null", "[2]", "[0,8]"), eight, w + "dtype must be a string"},
      {"dtype_array", entry("[\"F32\"]", "[2]", "[0,8]"), eight, w + "dtype must be a string"},
      {"dtype_newline", entry("\"F\\n32\"", "[2]", "[0,8]"), eight, "'F\\x0a32'"},
      {"shape_number", entry("\"F32\"", "2", "[0,8]"), eight, w + "shape must be an array"},
      {"shape_string", entry("\"F32\"", "\"2\"", "[0,8]"), eight, w + "shape must be an array"},
      {"shape_null", entry("\"F32\"", "null", "[0,8]"), eight, w + "shape must be an array"},
      {"shape_negative", entry("\"F32\"", "[-2]", "[0,8]"), eight, w + "shape holds the negative"},
      {"shape_minus_zero", entry("\"F32\"", "[-0]", "[0,0]"), "", w + "shape holds the negative"},
      {"shape_float", entry("\"F32\"", "[2.0]", "[0,8]"), eight, "not an integer"},
      {"shape_exponent", entry("\"F32\"", "[2e0]", "[0,8]"), eight, "not an integer"},
      {"shape_bool", entry("\"F32\"", "[true]", "[0,8]"), eight, w + "shape must hold integers"},
      {"shape_nested", entry("\"F32\"", "[[2]]", "[0,8]"), eight, w + "shape must hold integers"},
      {"shape_2_pow_48", entry("\"U8\"", "[281474976710656,0]", "[0,0]"), "", "2^48 - 1"},
      {"shape_2_pow_64", entry("\"U8\"", "[18446744073709551616]", "[0,0]"), "", "64 bits"},
      {"shape_wrap", entry("\"U8\"", "[4294967296,4294967296]", "[0,0]"), "", w + "shape"},
      {"shape_wrap_then_zero", entry("\"U8\"", "[4294967296,4294967296,0]", "[0,0]"), "", "overflows 64 bits"},
      {"shape_zero_then_wrap", entry("\"U8\"", "[0,4294967296,4294967296]", "[0,0]"), "", "overflows 64 bits"},
      {"bytes_wrap", entry("\"F64\"", "[2147483648,1073741824]", "[0,0]"), "", "overflows 64 bits"},
      {"offsets_one", entry("\"F32\"", "[2]", "[8]"), eight, w + "data_offsets must be two"},
      {"offsets_three", entry("\"F32\"", "[2]", "[0,4,8]"), eight, w + "data_offsets must be two"},
      {"offsets_object", entry("\"F32\"", "[2]", "{}"), eight, w + "data_offsets must be an array"},
      {"offsets_float", entry("\"F32\"", "[2]", "[0.0,8]"), eight, "not an integer"},
      {"offsets_past_end", entry("\"F32\"", "[4]", "[0,16]"), eight, "past the end of the file"},
      {"offsets_u64_max", entry("\"U8\"", "[0]", "[18446744073709551615,18446744073709551615]"), "", "hole"},
      {"too_few_bytes", entry("\"F32\"", "[2]", "[0,4]"), "xxxx", "takes 8 bytes"},
      {"hole_front", entry("\"U8\"", "[4]", "[4,8]"), eight, "hole"},
      {"hole_between", two("[0,4]", "[6,10]"), "0123456789", "hole"},
      {"overlap_all", two("[0,4]", "[0,4]"), "0123", "overlap"},
      {"overlap_part", two("[0,4]", "[2,6]"), "012345", "overlap"},
      {"empty_inside",
       R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("e":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
       "0123", "overlap"},
      {"metadata_null", R"({"__metadata__":null})", "", "__metadata__ must be an object"},
      {"metadata_array", R"({"__metadata__":["a"]})", "", "__metadata__ must be an object"},
      {"metadata_bool", R"({"__metadata__":{"a":true}})", "", "__metadata__ must map strings"},
      {"metadata_null_value", R"({"__metadata__":{"a":null}})", "", "__metadata__ must map strings"},
      {"metadata_twice", R"({"__metadata__":{},"__metadata__":{}})", "", "duplicate key"},
      {"metadata_key_twice", R"({"__metadata__":{"a":"1","\u0061":"2"}})", "", "duplicate key 'a'"},
      {"metadata_flood",
       [] {
         std::string text = "{\"__metadata__\":{\"\":\"\"";
         for (int i = 0; i < 100'000; ++i) text += fmt::format(",\"{}\":\"\"", i);
         return text + "}}";
       }(),
       "", "__metadata__ has more than 100000 entries"},
      {"shape_flood",
       entry(
           "\"U8\"",
           "[1" +
               [] {
                 std::string ones;
                 for (int i = 0; i < 1100; ++i) ones += ",1";
                 return ones;
               }() +
               "]",
           "[0,1]"),
       "x", w + "shape has more than 1024 numbers"},
      {"nesting_bomb", R"({"w":{"x":)" + std::string(100'000, '['), "", "nested deeper"},
      {"nesting_bomb_in_shape", R"({"w":{"shape":)" + std::string(100'000, '['), "", "shape"},
      {"nesting_bomb_of_objects",
       [] {
         std::string text;
         for (int i = 0; i < 50'000; ++i) text += "{\"a\":";
         return text;
       }(),
       "", "nested deeper"},
  };
}

class BadHeader : public ::testing::TestWithParam<HeaderCase> {};

TEST_P(BadHeader, IsRefusedWithItsReason) {
  const HeaderCase& c = GetParam();
  const TempFolder folder;
  const std::string message = refusal(folder.write("odd.safetensors", file_of(c.header, c.data)));
  EXPECT_NE(message.find("odd.safetensors: header"), std::string::npos) << message;
  EXPECT_NE(message.find(c.complaint), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

INSTANTIATE_TEST_SUITE_P(Safetensors, BadHeader, ::testing::ValuesIn(bad_headers()),
                         [](const auto& one) { return one.param.name; });

TEST(Safetensors, ShortFilesSayWhatIsExpected) {
  const TempFolder folder;
  for (size_t size = 0; size < 8; ++size) {
    const auto path = folder.write("short.safetensors", std::string(size, '\0'));
    EXPECT_NE(refusal(path).find("too short for the 8 bytes of the header's length"), std::string::npos);
  }
  EXPECT_NE(refusal(folder.path() / "none.safetensors").find("none.safetensors: cannot open"), std::string::npos);
}

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  const TempFolder folder;
  const std::string header =
      R"({ "b" : {"data_offsets":[3,3],"dtype":"C64","shape":[0,281474976710655], "extra":[{"x":[]}]},)"
      R"("":{"dtype":"F32","shape":[],"data_offsets":[3,7]},)"
      R"("a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"__metadata__":{}}   )";
  const SafetensorsFile file(folder.write("good.safetensors", file_of(header, "abcdefg")));
  ASSERT_EQ(file.tensors().size(), 3U);
  EXPECT_EQ(file.tensors()[0].name, "");
  EXPECT_EQ(as_text(file.find("")->bytes), "defg");
  EXPECT_EQ(as_text(file.find("a")->bytes), "abc");
  EXPECT_EQ(file.find("b")->bytes.size(), 0U);
  EXPECT_EQ(file.find("c"), nullptr);
}

struct Owned {
  std::vector<std::string> bytes;
  std::vector<TensorView> views;
  std::map<std::string, std::string> metadata = {{"format", "pt"}, {"note", "a \"quote\"\n"}};

  Owned() {
    bytes = {"abc", "01234567", std::string("\0\1\2\3\4\5\6\7", 8), "", "pqrs"};
    views = {{"z.byte", DType::u8, {3}, as_bytes(bytes[0])},
             {"m.float", DType::f32, {2, 1}, as_bytes(bytes[1])},
             {"a.long", DType::i64, {}, as_bytes(bytes[2])},
             {"e.empty", DType::f16, {0, 7}, as_bytes(bytes[3])},
             {"\xe5\xb1\x82.\"bf\"", DType::bf16, {2}, as_bytes(bytes[4])}};
  }
};

TEST(Safetensors, WhatIsWrittenIsRead) {
  const TempFolder folder;
  const Owned owned;
  write_safetensors(folder.path() / "a.safetensors", owned.views, owned.metadata);
  const SafetensorsFile file(folder.path() / "a.safetensors");
  EXPECT_EQ(file.metadata(), owned.metadata);
  ASSERT_EQ(file.tensors().size(), owned.views.size());
  for (const TensorView& expected : owned.views) {
    const TensorView* view = file.find(expected.name);
    ASSERT_NE(view, nullptr) << expected.name;
    EXPECT_EQ(view->dtype, expected.dtype);
    EXPECT_EQ(view->shape, expected.shape);
    EXPECT_EQ(as_text(view->bytes), as_text(expected.bytes));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view->bytes.data()) % dtype_size(view->dtype), 0U);
  }
}

TEST(Safetensors, TheOrderOfTensorsDoesNotChangeTheFile) {
  const TempFolder folder;
  Owned owned;
  write_safetensors(folder.path() / "a.safetensors", owned.views, owned.metadata);
  std::ranges::reverse(owned.views);
  write_safetensors(folder.path() / "b.safetensors", owned.views, owned.metadata);
  EXPECT_EQ(read_text_file(folder.path() / "a.safetensors"), read_text_file(folder.path() / "b.safetensors"));
}

TEST(Safetensors, TheWriterRefusesWhatItCouldNotReadBack) {
  const TempFolder folder;
  const auto path = folder.path() / "a.safetensors";
  const std::string data = "abcd";
  const TensorView good{"w", DType::u8, {4}, as_bytes(data)};
  const auto with = [&](auto change) {
    TensorView view = good;
    change(view);
    return std::vector<TensorView>{good, view};
  };
  EXPECT_THROW(write_safetensors(path, with([](TensorView&) {})), RuntimeFailure);
  EXPECT_THROW(write_safetensors(path, with([](TensorView& v) { v.name = "__metadata__"; })), RuntimeFailure);
  EXPECT_THROW(write_safetensors(path, with([](TensorView& v) { v.name = "\xff"; })), RuntimeFailure);
  EXPECT_THROW(write_safetensors(path, with([](TensorView& v) { v.name = "v", v.shape = {5}; })), RuntimeFailure);
  EXPECT_THROW(write_safetensors(path, with([](TensorView& v) { v.name = "v", v.shape = {-4, -1}; })), RuntimeFailure);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

std::vector<std::string> good_files() {
  const TempFolder folder;
  const Owned owned;
  write_safetensors(folder.path() / "good.safetensors", owned.views, owned.metadata);
  const auto cases = std::filesystem::path(UNIGRPO_TEST_DATA) / "malformed/safetensors";
  return {read_text_file(folder.path() / "good.safetensors"),
          read_text_file(cases / "st183_ok_empty_tensor.safetensors"),
          read_text_file(cases / "st193_ok_escaped_name.safetensors")};
}

// Half of the mutants get a matching header length, so that they fail later than there.
std::string mutant_of(const std::string& good, RandomStream& random) {
  const std::string mutant = unigrpo::testing::mutate(good, random);
  const size_t brace = mutant.find_last_of('}');
  if (random.chance(0.5) || brace == std::string::npos || brace <= 8) return mutant;
  return file_of(mutant.substr(8, brace - 7), mutant.substr(brace + 1));
}

// Every mutant opens with ranges inside the file, or is refused as BadInput; nothing else.
TEST(Safetensors, MutantsOpenOrAreRefused) {
  const std::vector<std::string> seeds = good_files();
  size_t num_opened = 0;
  for (uint64_t i = 0; i < 10'000; ++i) {
    RandomStream random({.seed = 20, .sample = i, .purpose = Purpose::test});
    const std::string mutant = mutant_of(seeds[i % seeds.size()], random);
    try {
      size_t num_bytes = 0;
      for (const TensorView& view : read_contents(as_bytes(mutant), "mutant").tensors) {
        ASSERT_GE(as_text(view.bytes).data(), mutant.data());
        ASSERT_LE(as_text(view.bytes).data() + view.bytes.size(), mutant.data() + mutant.size());
        num_bytes += view.bytes.size();
      }
      ASSERT_LT(num_bytes, mutant.size());
      ++num_opened;
    } catch (const BadInput& error) {
      const std::string message = error.what();
      ASSERT_EQ(message.rfind("mutant: ", 0), 0U) << i << ": " << message;
      ASSERT_EQ(message.find('\n'), std::string::npos) << i << ": " << message;
      ASSERT_LT(message.size(), 1000U) << i << ": " << message;
    }
  }
  EXPECT_GT(num_opened, 100U);  // they do not all fail at the first byte
}

TEST(Safetensors, MutantsOnDiskAreNamed) {
  const TempFolder folder;
  const std::vector<std::string> seeds = good_files();
  for (uint64_t i = 0; i < 200; ++i) {
    RandomStream random({.seed = 23, .sample = i, .purpose = Purpose::test});
    const std::string mutant = mutant_of(seeds[i % seeds.size()], random);
    const std::string message = refusal(folder.write("mutant.safetensors", mutant));
    EXPECT_TRUE(message.empty() || message.find("mutant.safetensors: header") != std::string::npos) << message;
  }
}

TEST(Safetensors, AFullDiskLeavesTheOldFileAndNothingElse) {
  const TempFolder folder;
  const Owned owned;
  const auto path = folder.write("a.safetensors", "old");
  for (const char* fault :
       {"save.open=enospc", "save.write=enospc", "save.write:3=eio", "save.fsync=eio", "save.rename=eio"}) {
    fault::configure(fault);
    try {
      write_safetensors(path, owned.views, owned.metadata);
      ADD_FAILURE() << fault;
    } catch (const RuntimeFailure& error) {
      EXPECT_NE(std::string(error.what()).find("a.safetensors: cannot"), std::string::npos);
    }
    fault::configure("");
    EXPECT_EQ(read_text_file(path), "old") << fault;
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << fault;
  }
}

}  // namespace
}  // namespace unigrpo::io

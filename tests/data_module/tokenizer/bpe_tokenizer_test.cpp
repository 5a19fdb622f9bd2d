#include "data/tokenizer/bpe_tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>

#include "base/error.h"
#include "base/rng.h"
#include "data/tokenizer/bpe_files.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "support/temp_folder.h"

namespace unigrpo::data {
namespace {

using Json = nlohmann::json;
using unigrpo::testing::TempFolder;
using Ids = std::vector<int64_t>;

const std::filesystem::path kTiny = std::filesystem::path(UNIGRPO_TEST_DATA) / "bagel_tiny";

TEST(BpeTokenizer, GivesTheOfficialIdsOfBagelsTokenizer) {
  const auto tokenizer = open_tokenizer(kTiny);
  const Json golden = io::read_json_file(kTiny / "golden.json");
  ASSERT_EQ(golden.at("tokenizer").size(), 12u);
  for (const Json& entry : golden.at("tokenizer")) {
    const auto text = entry.at("text").get<std::string>();
    EXPECT_EQ(Json(tokenizer->encode(text)), entry.at("ids")) << text;
  }
  EXPECT_EQ(tokenizer->vocab_size(), 405);
  EXPECT_EQ(tokenizer->special_tokens().at("<|im_start|>"), golden.at("special_tokens").at("bos_token_id"));
  EXPECT_EQ(tokenizer->special_tokens().at("<|vision_end|>"), golden.at("special_tokens").at("end_of_image"));
}

TEST(BpeTokenizer, DecodesBytesAndLeavesOutSpecialTokens) {
  const auto tokenizer = open_tokenizer(kTiny);
  for (const char* text : {"two red circles left of a blue square", " leading", "tabs\tand\xC2\xA0nbsp\n",
                           "\xF0\x9F\x99\x82 \xE5\x9B\xBE"}) {
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("<|im_start|>a<|vision_start|>b<|im_end|>")), "ab");
  const std::string written = "<|im_start|>a <|vision_start|> b<|im_end|>";
  EXPECT_EQ(tokenizer->decode_all(tokenizer->encode(written)), written);
  Ids smile = tokenizer->encode("\xF0\x9F\x99\x82");
  ASSERT_GT(smile.size(), 1u);
  smile.pop_back();
  EXPECT_EQ(tokenizer->decode(smile), "\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer->decode({-1, 405, std::numeric_limits<int64_t>::max()}), "");
}

TEST(BpeTokenizer, NormalizesToNfc) {
  const auto tokenizer = open_tokenizer(kTiny);
  EXPECT_EQ(tokenizer->encode("donne\xCC\x81"
                              "es"),
            tokenizer->encode("donn\xC3\xA9"
                              "es"));
}

TEST(BpeTokenizer, RefusesTextThatIsNotUtf8OrTooLong) {
  const auto tokenizer = open_tokenizer(kTiny);
  EXPECT_THROW(tokenizer->encode("\xff"), BadInput);
  EXPECT_THROW(tokenizer->encode(std::string((1 << 20) + 1, 'a')), BadInput);
}

TEST(BpeTokenizer, IsFastOnALongWord) {
  const auto tokenizer = open_tokenizer(kTiny);
  const std::string word(300'000, 'l');  // quadratic merging would take minutes
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(word)), word);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(std::string(300'000, ' '))), std::string(300'000, ' '));
}

TEST(BpeTokenizer, MayBeCalledFromSeveralThreads) {
  const auto tokenizer = open_tokenizer(kTiny);
  const Ids expected = tokenizer->encode("two red circles left of a blue square");
  std::vector<std::jthread> threads;
  std::vector<int> wrong(4);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        wrong[t] += tokenizer->encode("two red circles left of a blue square") != expected;
        tokenizer->encode(fmt::format("w{}", i));
      }
    });
  }
  threads.clear();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

// Merges as the definition says: the pair of lowest rank, leftmost of equals, again and again.
Ids brute_force(const BpeFiles& files, const std::string& word) {
  Ids ids;
  for (const char c : word) {
    for (size_t id = 0; id < files.tokens.size(); ++id) {
      if (files.tokens[id] == std::string(1, c)) ids.push_back(static_cast<int64_t>(id));
    }
  }
  while (true) {
    size_t best_rank = files.merges.size(), best_place = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (files.merges[rank].left == ids[i] && files.merges[rank].right == ids[i + 1]) {
          best_rank = rank;
          best_place = i;
        }
      }
    }
    if (best_rank == files.merges.size()) return ids;
    ids[best_place] = files.merges[best_rank].merged;
    ids.erase(ids.begin() + static_cast<long>(best_place) + 1);
  }
}

TEST(BpeTokenizer, MergesAsBruteForceDoes) {
  RandomStream random({.seed = 5, .purpose = Purpose::test});
  for (int round = 0; round < 30; ++round) {
    BpeFiles files;
    files.tokens = {"a", "b", "c"};
    std::set<std::pair<int64_t, int64_t>> pairs;
    while (files.tokens.size() < 20) {
      const auto left = static_cast<int64_t>(random.below(files.tokens.size()));
      const auto right = static_cast<int64_t>(random.below(files.tokens.size()));
      const std::string merged = files.tokens[static_cast<size_t>(left)] + files.tokens[static_cast<size_t>(right)];
      if (merged.size() > 12 || !pairs.emplace(left, right).second) continue;
      const auto known = std::find(files.tokens.begin(), files.tokens.end(), merged);
      files.merges.push_back({left, right, known - files.tokens.begin()});
      if (known == files.tokens.end()) files.tokens.push_back(merged);
    }
    files.is_model_token.assign(files.tokens.size(), true);
    const BpeTokenizer tokenizer(files, "random");
    for (int i = 0; i < 100; ++i) {
      std::string word;
      for (uint64_t n = 1 + random.below(25); n > 0; --n) word += static_cast<char>('a' + random.below(3));
      ASSERT_EQ(tokenizer.encode(word), brute_force(files, word)) << word << " in round " << round;
    }
  }
}

// A small tokenizer.json, changed by `edit`.
Json small() {
  return Json::parse(R"({"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
    "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
              "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "!": 4, "!!": 5, "aba": 6},
              "merges": ["a b", "! !", "ab a"]}})");
}

std::unique_ptr<Tokenizer> open(const Json& json) {
  const TempFolder folder;
  return open_tokenizer(folder.write("tokenizer.json", json.dump()));
}

std::string refusal(const std::string& json) {
  const TempFolder folder;
  try {
    open_tokenizer(folder.write("tokenizer.json", json));
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find("tokenizer.json: "), std::string::npos) << error.what();
    return error.what();
  }
  return "accepted";
}

TEST(TokenizerJson, SplitsWordsAndPunctuation) {
  const auto tokenizer = open(small());
  EXPECT_EQ(tokenizer->encode("aba ab!!\tb"), (Ids{6, 3, 5, 2}));
  EXPECT_EQ(tokenizer->encode("xya"), (Ids{0, 0, 1}));
  EXPECT_EQ(tokenizer->encode("a<unk>b"), (Ids{1, 0, 2}));
  EXPECT_EQ(tokenizer->decode({6, 0, 3}), "aba ab");
}

TEST(TokenizerJson, ReadsItsSettings) {
  Json json = small();
  json["model"]["fuse_unk"] = true;
  EXPECT_EQ(open(json)->encode("xyaxy"), (Ids{0, 1, 0}));
  json["model"]["unk_token"] = nullptr;
  EXPECT_EQ(open(json)->encode("xya"), (Ids{1}));
  json = small();
  json["model"]["merges"] = Json::parse(R"([["a", "b"]])");
  EXPECT_EQ(open(json)->encode("aba"), (Ids{3, 1}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(open(json)->encode("aba"), (Ids{6}));
  json = small();
  json["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  json["model"]["vocab"]["b!"] = 7;
  json["model"]["merges"] = {"b !"};
  EXPECT_EQ(open(json)->encode("ab! a"), (Ids{1, 7, 1}));
  json["pre_tokenizer"] = {{"type", "Whitespace"}};
  EXPECT_EQ(open(json)->encode("ab! a"), (Ids{1, 2, 4, 1}));
}

TEST(TokenizerJson, CutsOutAddedTokens) {
  Json json = small();
  json["added_tokens"].push_back({{"id", 7}, {"content", "<x>"}, {"special", false}, {"rstrip", true}});
  json["added_tokens"].push_back({{"id", 8}, {"content", "<x>>"}, {"special", true}, {"lstrip", true}});
  const auto tokenizer = open(json);
  EXPECT_EQ(tokenizer->encode("a<x>  b"), (Ids{1, 7, 2}));
  EXPECT_EQ(tokenizer->encode("a  <x>>b"), (Ids{1, 8, 2}));
  EXPECT_EQ(tokenizer->vocab_size(), 9);
  EXPECT_EQ(tokenizer->special_tokens(), (std::map<std::string, int64_t>{{"<unk>", 0}, {"<x>>", 8}}));
}

TEST(TokenizerJson, ReadsQwen2sPreTokenizer) {
  const Json vocab = io::read_json_file(kTiny / "vocab.json");
  Json json = small();
  json["model"]["vocab"] = vocab;
  json["model"]["unk_token"] = nullptr;
  json["model"]["merges"] = Json::array();
  const std::string merges = io::read_text_file(kTiny / "merges.txt");
  for (size_t begin = merges.find('\n') + 1; begin < merges.size();) {
    const size_t end = merges.find('\n', begin);
    json["model"]["merges"].push_back(merges.substr(begin, end - begin));
    begin = end + 1;
  }
  json["added_tokens"] = Json::array();
  const Json added = io::read_json_file(kTiny / "added_tokens.json");
  for (const auto& [text, id] : added.items()) {
    json["added_tokens"].push_back({{"id", id}, {"content", text}, {"special", true}});
  }
  json["normalizer"] = {{"type", "NFC"}};
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"},
         {"pattern", {{"Regex", std::string(kQwen2Pattern)}}},
         {"behavior", "Isolated"},
         {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}}}}};
  json["decoder"] = {{"type", "ByteLevel"}};
  const auto tokenizer = open(json);
  const Json golden = io::read_json_file(kTiny / "golden.json");
  for (const Json& entry : golden.at("tokenizer")) {
    EXPECT_EQ(Json(tokenizer->encode(entry.at("text").get<std::string>())), entry.at("ids"));
  }
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\xC3\xA9 b")), "a\xC3\xA9 b");
}

struct Edit {
  std::string part;  // of the message
  std::function<void(Json&)> apply;
};

TEST(TokenizerJson, RefusesWhatIsWrongByName) {
  const std::vector<Edit> edits = {
      {"model is missing", [](Json& j) { j.erase("model"); }},
      {"model must be an object", [](Json& j) { j["model"] = 3; }},
      {"type is missing", [](Json& j) { j["model"].erase("type"); }},
      {"model type 'WordPiece'", [](Json& j) { j["model"]["type"] = "WordPiece"; }},
      {"vocab is missing", [](Json& j) { j["model"].erase("vocab"); }},
      {"vocab must be an object", [](Json& j) { j["model"]["vocab"] = Json::array({"a"}); }},
      {"vocab is empty", [](Json& j) { j["model"]["vocab"] = Json::object(); }},
      {"id of token 'a'", [](Json& j) { j["model"]["vocab"]["a"] = -1; }},
      {"id of token 'a'", [](Json& j) { j["model"]["vocab"]["a"] = 1.0; }},
      {"id of token 'a'", [](Json& j) { j["model"]["vocab"]["a"] = "1"; }},
      {"id of token 'a'", [](Json& j) { j["model"]["vocab"]["a"] = nullptr; }},
      {"id of token 'a'", [](Json& j) { j["model"]["vocab"]["a"] = true; }},
      {"id 99 of token 'a' is out of range", [](Json& j) { j["model"]["vocab"]["a"] = 99; }},
      {"out of range", [](Json& j) { j["model"]["vocab"]["a"] = uint64_t{1} << 32; }},
      {"out of range", [](Json& j) { j["model"]["vocab"]["a"] = std::numeric_limits<uint64_t>::max(); }},
      {"is a duplicate", [](Json& j) { j["model"]["vocab"]["a"] = 2; }},
      {"a token is empty", [](Json& j) { j["model"]["vocab"][""] = 7; }},
      {"NUL", [](Json& j) { j["model"]["vocab"][std::string("q\0", 2)] = 7; }},
      {"too long", [](Json& j) { j["model"]["vocab"][std::string(150'000, 'a')] = 7; }},
      {"merges is missing", [](Json& j) { j["model"].erase("merges"); }},
      {"merges must be a list", [](Json& j) { j["model"]["merges"] = "a b"; }},
      {"merges[3]: merge of 'a' and 'q'", [](Json& j) { j["model"]["merges"].push_back("a q"); }},
      {"unknown token 'bb'", [](Json& j) { j["model"]["merges"].push_back("b b"); }},
      {"merges[3]: merge must be", [](Json& j) { j["model"]["merges"].push_back("ab"); }},
      {"merges[3]: merge must be", [](Json& j) { j["model"]["merges"].push_back("a b a"); }},
      {"merges[3]: merge must be", [](Json& j) { j["model"]["merges"].push_back(" a"); }},
      {"merges[3]: merge must be", [](Json& j) { j["model"]["merges"].push_back(7); }},
      {"merges[3]: merge must be", [](Json& j) { j["model"]["merges"].push_back(Json::array({"a"})); }},
      {"duplicate merge", [](Json& j) { j["model"]["merges"].push_back("a b"); }},
      {"unk_token", [](Json& j) { j["model"]["unk_token"] = "<nope>"; }},
      {"unk_token", [](Json& j) { j["model"]["unk_token"] = 0; }},
      {"dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }},
      {"end_of_word_suffix", [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }},
      {"byte_fallback", [](Json& j) { j["model"]["byte_fallback"] = true; }},
      {"added_tokens must be a list", [](Json& j) { j["added_tokens"] = 3; }},
      {"added_tokens[0]", [](Json& j) { j["added_tokens"][0] = 3; }},
      {"id is missing", [](Json& j) { j["added_tokens"][0].erase("id"); }},
      {"duplicate token", [](Json& j) { j["added_tokens"][0]["id"] = 1; }},
      {"is a duplicate", [](Json& j) { j["added_tokens"][0]["content"] = "<other>"; }},
      {"duplicate added token", [](Json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }},
      {"special must be", [](Json& j) { j["added_tokens"][0]["special"] = 1; }},
      {"single_word", [](Json& j) { j["added_tokens"][0]["single_word"] = true; }},
      {"normalizer type 'NFKC'", [](Json& j) { j["normalizer"] = {{"type", "NFKC"}}; }},
      {"pre_tokenizer type 'Metaspace'", [](Json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}}; }},
      {"decoder type", [](Json& j) { j["decoder"] = {{"type", "ByteLevel"}}; }},
      {"pattern",
       [](Json& j) {
         j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}};
       }},
      {"pattern",
       [](Json& j) {
         j["pre_tokenizer"] = {
             {"type", "Split"}, {"pattern", {{"Regex", std::string(5000, 'a')}}}, {"behavior", "Isolated"}};
       }},
      {"behavior",
       [](Json& j) {
         j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Contiguous"}};
       }},
  };
  ASSERT_EQ(refusal(small().dump()), "accepted");
  for (const Edit& edit : edits) {
    Json json = small();
    edit.apply(json);
    const std::string message = refusal(json.dump());
    EXPECT_NE(message.find(edit.part), std::string::npos) << edit.part << ": " << message;
  }
  for (const char* text : {"", "[]", "<html></html>", "{\"model\":", "null"}) {
    EXPECT_NE(refusal(text), "accepted") << text;
  }
  EXPECT_NE(refusal("{\"model\": " + std::string(200'000, '[')).find("nested"), std::string::npos);
}

TEST(TokenizerJson, GivesUpOnAPatternThatBacktracksWithoutEnd) {
  Json json = small();
  json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}};
  EXPECT_THROW(open(json)->encode(std::string(5000, 'a') + "b"), BadInput);
}

TEST(TokenizerJson, SplitsOnALiteralAndRemovesIt) {
  Json json = small();
  json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", "!."}}}, {"behavior", "Removed"}};
  EXPECT_EQ(open(json)->encode("ab!.a"), (Ids{3, 1}));
  json["pre_tokenizer"]["invert"] = true;
  EXPECT_EQ(open(json)->encode("ab!.a!x"), (Ids{4, 0}));
}

std::string folder_refusal(const std::map<std::string, std::string>& changed) {
  std::map<std::string, std::string> files = {{"vocab.json", R"({"<unk>": 0, "a": 1, "b": 2, "ab": 3})"},
                                              {"merges.txt", "#version: 0.2\na b\n"}};
  for (const auto& [name, text] : changed) files[name] = text;
  const TempFolder folder;
  for (const auto& [name, text] : files) {
    if (text != "absent") folder.write(name, text);
  }
  try {
    const auto tokenizer = open_tokenizer(folder.path());
    return Json(tokenizer->encode("ab  bx")).dump();
  } catch (const BadInput& error) {
    return error.what();
  }
}

TEST(VocabAndMerges, SplitsAtWhiteSpaceWithoutAConfig) {
  EXPECT_EQ(folder_refusal({}), "[3,2,0]");
  EXPECT_EQ(folder_refusal({{"merges.txt", "a b"}}), "[3,2,0]");
  EXPECT_EQ(folder_refusal({{"merges.txt", "#version: 0.2\n"}}), "[1,2,2,0]");
  EXPECT_EQ(folder_refusal({{"merges.txt", "a b\n\n"}}), "[3,2,0]");
  EXPECT_EQ(folder_refusal({{"added_tokens.json", R"({"<|x|>": 4})"}}), "[3,2,0]");
}

TEST(VocabAndMerges, RefusesWhatIsWrongByFileAndLine) {
  const std::vector<std::pair<std::map<std::string, std::string>, std::string>> cases = {
      {{{"vocab.json", ""}}, "vocab.json: invalid JSON"},
      {{{"vocab.json", "{}"}}, "vocab.json: vocab is empty"},
      {{{"vocab.json", "[]"}}, "vocab.json: vocab must be an object"},
      {{{"vocab.json", R"({"a": 0, "a": 1})"}}, "vocab.json: invalid JSON: duplicate key 'a'"},
      {{{"vocab.json", R"({"a": 0, "b": 0, "ab": 1})"}}, "is a duplicate"},
      {{{"vocab.json", R"({"a": 0, "b": 1, "ab": 3})"}}, "vocab.json: vocab: id 3 of token 'ab'"},
      {{{"vocab.json", "absent"}}, "vocab.json is missing"},
      {{{"merges.txt", "absent"}}, "merges.txt is missing"},
      {{{"merges.txt", ""}}, "merges.txt: the file is empty"},
      {{{"merges.txt", "#version: 0.2\na b\nab\n"}}, "merges.txt:3: a merge must be two tokens"},
      {{{"merges.txt", "a b c\n"}}, "merges.txt:1: a merge must be two tokens"},
      {{{"merges.txt", "\na b\n"}}, "merges.txt:1: a merge must be two tokens"},
      {{{"merges.txt", "a b\r\n"}}, "merges.txt:1: merge of 'a' and 'b\\x0d'"},
      {{{"merges.txt", "a zz\n"}}, "merges.txt:1: merge of 'a' and 'zz': unknown token 'zz'"},
      {{{"merges.txt", "b a\n"}}, "unknown token 'ba'"},
      {{{"merges.txt", "a b\na b\n"}}, "merges.txt:2: duplicate merge"},
      {{{"merges.txt", "a b\n\xff b\n"}}, "merges.txt: merges are not valid UTF-8"},
      {{{"tokenizer_config.json", "{}"}}, "tokenizer_config.json: tokenizer_class is missing"},
      {{{"tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})"}}, "'GPT2Tokenizer'"},
      {{{"tokenizer_config.json",
         R"({"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {"x": {"content": "q"}}})"}},
       "added_tokens_decoder 'x': id must be an integer"},
      {{{"tokenizer_config.json",
         R"({"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {"1": {"content": "q"}}})"}},
       "id 1 of token 'q' is a duplicate"},
      {{{"added_tokens.json", R"({"<|x|>": 3})"}}, "added_tokens.json: id 3 of token '<|x|>'"},
      {{{"added_tokens.json", R"({"<|x|>": "4"})"}}, "added_tokens.json: id of token '<|x|>'"},
      {{{"vocab.json", "absent"}, {"merges.txt", "absent"}}, "no tokenizer in the folder"},
  };
  for (const auto& [changed, part] : cases) {
    const std::string message = folder_refusal(changed);
    EXPECT_NE(message.find(part), std::string::npos) << part << ": " << message;
  }
}

}  // namespace
}  // namespace unigrpo::data

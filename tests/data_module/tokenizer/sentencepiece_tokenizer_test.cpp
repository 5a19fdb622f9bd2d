#include "data/tokenizer/sentencepiece_tokenizer.h"

#include <gtest/gtest.h>

#include <bit>
#include <filesystem>
#include <limits>
#include <string>

#include "base/error.h"
#include "data/tokenizer/sentencepiece_model.h"
#include "io/atomic_file.h"

namespace unigrpo::data {
namespace {

using Ids = std::vector<int64_t>;

const std::filesystem::path kModel =
    std::filesystem::path(UNIGRPO_TEST_DATA) / "malformed/tokenizer/tk02_spm_ok_custom_norm.model";

std::string varint(uint64_t value) {
  std::string text;
  for (; value >= 0x80; value >>= 7) text += static_cast<char>(value | 0x80);
  return text + static_cast<char>(value);
}
std::string number(uint32_t field, uint64_t value) { return varint(field << 3) + varint(value); }
std::string bytes(uint32_t field, std::string_view value) {
  return varint(field << 3 | 2) + varint(value.size()) + std::string(value);
}
std::string real(uint32_t field, float value) {
  std::string text = varint(field << 3 | 5);
  const auto bits = std::bit_cast<uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) text += static_cast<char>(bits >> shift & 0xFF);
  return text;
}
std::string piece(std::string_view text, float score = -1, int type = 1) {
  return bytes(1, bytes(1, text) + real(2, score) + number(3, static_cast<uint64_t>(type)));
}
std::string trainer(const std::string& fields) { return bytes(2, fields); }
std::string normalizer(const std::string& charsmap) { return bytes(3, bytes(2, charsmap)); }

const std::string kUnknown = piece("<unk>", 0, 2);
const std::string kGood = kUnknown + piece("\xE2\x96\x81") + piece("a") + piece("b") + piece("ab", -0.5F);

std::string refusal(const std::string& model) {
  try {
    const SentencePieceTokenizer tokenizer(model, "t.model");
    tokenizer.encode("a ab <|x|> \xC3\xA9\xF0\x9F\x99\x82");
  } catch (const BadInput& error) {
    EXPECT_NE(std::string(error.what()).find("t.model: SentencePiece model"), std::string::npos);
    return error.what();
  }
  return "accepted";
}

TEST(SentencePieceTokenizer, EncodesAndDecodes) {
  const SentencePieceTokenizer tokenizer(kGood, "t.model");
  EXPECT_EQ(tokenizer.vocab_size(), 5);
  EXPECT_EQ(tokenizer.encode("ab b"), (Ids{1, 4, 1, 3}));
  EXPECT_EQ(tokenizer.decode({1, 4, 1, 3}), "ab b");
  EXPECT_EQ(tokenizer.decode({1, 4, 0, -1, 99, 3}), "abb");
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_THROW(tokenizer.encode("\xff"), BadInput);
  EXPECT_THROW(tokenizer.encode(std::string((1 << 20) + 1, 'a')), BadInput);
}

TEST(SentencePieceTokenizer, CutsOutSpelledTokensOnly) {
  const std::string model = kGood + piece("<|x|>", 0, 3) + piece("<|x|>y|>", 0, 3) + piece("<s>", 0, 3) +
                            piece("<|u|>", 0, 4) + piece("<think>", 0, 4);
  const SentencePieceTokenizer tokenizer(model, "t.model");
  EXPECT_EQ(tokenizer.encode("a<|x|>b"), (Ids{1, 2, 5, 1, 3}));
  EXPECT_EQ(tokenizer.encode("<|x|>y|><|x|>"), (Ids{6, 5}));
  EXPECT_EQ(tokenizer.encode("<|u|>"), (Ids{8}));
  EXPECT_EQ(tokenizer.encode("<|x<|x|>"), (Ids{1, 0, 5}));
  EXPECT_EQ(tokenizer.encode("<think>"), (Ids{1, 9}));
  EXPECT_EQ(tokenizer.encode("<s>"), (Ids{1, 0}));
  EXPECT_EQ(tokenizer.decode({1, 2, 5, 8, 3, 7, 9}), "ab<think>");
  EXPECT_EQ(tokenizer.decode_all({1, 2, 5, 8, 3, 7, 9}), "a<|x|><|u|>b<s><think>");
  EXPECT_EQ(tokenizer.special_tokens(),
            (std::map<std::string, int64_t>{{"<unk>", 0}, {"<|x|>", 5}, {"<|x|>y|>", 6}, {"<s>", 7}, {"<|u|>", 8}}));
}

TEST(SentencePieceTokenizer, UsesTheModelsNormalizerAndType) {
  const SentencePieceTokenizer compiled(kModel);
  EXPECT_EQ(compiled.encode("\xEF\xBC\xA1"), compiled.encode("A"));
  for (uint64_t type = 1; type <= 4; ++type) {
    EXPECT_EQ(refusal(kGood + trainer(number(3, type))), "accepted") << type;
  }
  const SentencePieceTokenizer bpe(kGood + trainer(number(3, 2)), "t.model");
  EXPECT_EQ(bpe.encode("ab"), (Ids{1, 4}));
}

TEST(SentencePieceTokenizer, FallsBackToBytes) {
  std::string model = kGood + trainer(number(35, 1));
  for (int byte = 0; byte < 256; ++byte) model += piece(fmt::format("<0x{:02X}>", byte), 0, 6);
  const SentencePieceTokenizer tokenizer(model, "t.model");
  EXPECT_EQ(tokenizer.encode("\xC3\xA9"), (Ids{1, 5 + 0xC3, 5 + 0xA9}));
  EXPECT_EQ(tokenizer.decode({1, 5 + 0xC3, 5 + 0xA9}), "\xC3\xA9");
  EXPECT_NE(refusal(kGood + trainer(number(35, 1))).find("256 byte pieces"), std::string::npos);
  EXPECT_NE(refusal(kGood + piece("<0x00>", 0, 6)).find("byte piece"), std::string::npos);
}

TEST(SentencePieceModel, IgnoresFieldsOfNewerVersions) {
  EXPECT_EQ(refusal(kGood + number(200, 7) + bytes(4, "x") + trainer(bytes(99, "new") + real(10, 1.0F)) +
                    bytes(1, bytes(1, "c") + number(250, 1))),
            "accepted");
}

TEST(SentencePieceModel, RefusesWhatTheLibraryTrusts) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  std::string nested_symbols = kGood;
  for (size_t n = 1; n <= 65; ++n) nested_symbols += piece(std::string(n, 'z'), 0, 4);
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "empty"},
      {"<!DOCTYPE html>", "does not parse"},
      {kGood.substr(0, kGood.size() - 3), "does not parse"},
      {kGood + "\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "runs past the end"},
      {kGood + "\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", "more than 64 bits"},
      {kGood + "\x0A\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", "more than 64 bits"},
      {kGood + std::string(1, '\0'), "bad field number"},
      {kGood + "\x0B", "wire type 3"},
      {kGood + "\x0C", "wire type 4"},
      {kGood + number(1, 5), "wire type 0, expected 2"},
      {kGood + bytes(1, number(1, 5)), "wire type 0, expected 2"},
      {kGood + bytes(1, bytes(1, "q") + number(2, 5)), "wire type 0, expected 5"},
      {number(4, 1) + number(7, 1), "no pieces"},
      {kGood + piece(""), "piece 5 is empty"},
      {kGood + bytes(1, ""), "piece 5 is empty"},
      {kGood + piece(std::string("q\0r", 3)), "NUL"},
      {kGood + piece("\xC0\x80"), "not valid UTF-8"},
      {kGood + piece("\xE2\x96"), "not valid UTF-8"},
      {kGood + piece(std::string(150'000, 'q')), "too long: 150000 bytes"},
      {kGood + piece("q", nan), "score is nan"},
      {kGood + piece("q", inf), "score is inf"},
      {kGood + piece("q", -inf), "score is -inf"},
      {kGood + piece("ab"), "duplicate"},
      {kGood + piece("ab", 0, 3), "duplicate"},
      {kGood + piece("q", 0, 7), "unknown type 7"},
      {kGood + piece("q", 0, 0), "unknown type 0"},
      {kGood + piece("q", 0, 2), "two unknown pieces"},
      {piece("a"), "no unknown piece"},
      {kUnknown + piece("<s>", 0, 3), "no piece that stands for text"},
      {kGood + trainer(number(3, 5)), "model_type 5"},
      {kGood + trainer(number(3, 0)), "model_type 0"},
      {kGood + trainer(bytes(44, "\xff")), "unk_surface"},
      {kGood + trainer("\x0A\x7F"), "does not parse"},
      {nested_symbols, "prefixes of"},
      {kGood + normalizer("abc"), "precompiled_charsmap"},
      {kGood + normalizer(std::string("\x04\0\0\0\0\0\0\0", 8)), "precompiled_charsmap"},
      {kGood + normalizer(std::string("\xFF\xFF\xFF\xFF\0\0\0\0", 8)), "longer than the map"},
      {kGood + normalizer(std::string("\0\0\0\0\0", 5)), "trie size"},
      {kGood + normalizer(std::string(1030, '\0').replace(0, 4, std::string("\0\4\0\0", 4))), "trie"},
  };
  for (const auto& [model, part] : cases) {
    const std::string message = refusal(model);
    EXPECT_NE(message.find(part), std::string::npos) << part << ": " << message;
  }
}

// A trie of 256 units: from the root by 'a' to itself, a rule at each step, is a rule for every run
// of a's; the library would write past its table of 32.
TEST(SentencePieceModel, RefusesANormalizerWithACycle) {
  std::vector<uint32_t> units(512, 0x80000000u);
  units[0] = uint32_t{256} << 10;                                       // root: state 256
  units[256 + 'a'] = 'a' | 1u << 8 | static_cast<uint32_t>('a') << 10;  // back to state 256, with a value
  units[256] = 0x80000000u;                                             // the value: text 0
  std::string map = varint(0);
  map.assign({0, 8, 0, 0});
  for (const uint32_t unit : units) {
    for (int shift = 0; shift < 32; shift += 8) map += static_cast<char>(unit >> shift & 0xFF);
  }
  map += std::string("x\0", 2);
  EXPECT_NE(refusal(kGood + normalizer(map)).find("cycle"), std::string::npos) << refusal(kGood + normalizer(map));
}

TEST(SentencePieceModel, KeepsWhatItReads) {
  const auto model = parse_sentencepiece_model(io::read_text_file(kModel), "t");
  const auto again = parse_sentencepiece_model(model.serialized, "t");
  EXPECT_EQ(model.serialized, again.serialized);
  ASSERT_EQ(model.pieces.size(), 69u);
  EXPECT_EQ(model.pieces[0].text, "<unk>");
  EXPECT_EQ(model.pieces[0].type, SentencePieceModel::Type::unknown);
}

}  // namespace
}  // namespace unigrpo::data

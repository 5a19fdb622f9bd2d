#include "data/tokenizer/sentencepiece_trainer.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/tokenizer/sentencepiece_tokenizer.h"
#include "io/atomic_file.h"
#include "support/temp_folder.h"

namespace unigrpo::data {
namespace {

using unigrpo::testing::TempFolder;

std::vector<std::string> world_sentences() {
  std::vector<std::string> sentences;
  for (const char* count : {"a", "two", "three", "four"}) {
    const std::string plural = count[1] == '\0' ? "" : "s";
    for (const char* color : {"red", "green", "blue", "yellow", "purple", "orange"}) {
      for (const char* shape : {"circle", "square", "triangle", "star"}) {
        const std::string name = std::string(count) + " " + color + " " + shape + plural;
        for (const char* relation : {"left of", "right of", "above", "below"}) {
          sentences.push_back(name + " " + relation + " a blue square");
        }
        sentences.push_back("<think> one blue square on the right; " + name + " on the left </think>");
        sentences.push_back("<think> " + name + " above; one green star below </think>");
      }
    }
  }
  return sentences;
}

TEST(TrainSentencePiece, GivesWholeWordsAndRoundTrips) {
  const TempFolder folder;
  const auto path = folder.path() / "tokenizer.model";
  const auto sentences = world_sentences();
  train_sentencepiece(sentences, 512, path);
  const SentencePieceTokenizer tokenizer(path);
  EXPECT_EQ(tokenizer.encode("two red circles left of a blue square").size(), 8u);
  const std::string plan = "<think> one blue square on the right; two red circles on the left </think>";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(plan)), plan);
  EXPECT_LE(tokenizer.encode(plan).size(), 20u);
  for (const std::string& sentence : sentences) {
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(sentence)), sentence);
  }
}

TEST(TrainSentencePiece, KnowsEveryPrintableAsciiCharacterAndTheSpecialTokens) {
  const TempFolder folder;
  const auto path = folder.path() / "tokenizer.model";
  train_sentencepiece(world_sentences(), 512, path);
  const SentencePieceTokenizer tokenizer(path);
  std::string all;
  for (char c = ' '; c <= '~'; ++c) all += c;
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("x" + all)), "x" + all);
  for (const char* name : {"<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|endoftext|>"}) {
    ASSERT_TRUE(tokenizer.special_tokens().contains(name)) << name;
    const int64_t id = tokenizer.special_tokens().at(name);
    EXPECT_EQ(tokenizer.encode(name), std::vector<int64_t>{id});
    EXPECT_EQ(tokenizer.decode({id}), "");
  }
  const auto ids = tokenizer.encode("<|im_start|>a star<|im_end|>");
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(ids.front(), tokenizer.special_tokens().at("<|im_start|>"));
  EXPECT_EQ(ids.back(), tokenizer.special_tokens().at("<|im_end|>"));
  EXPECT_EQ(tokenizer.decode(ids), "a star");
}

TEST(TrainSentencePiece, GivesTheSameBytesTwice) {
  const TempFolder folder;
  const auto sentences = world_sentences();
  train_sentencepiece(sentences, 300, folder.path() / "one.model");
  train_sentencepiece(sentences, 300, folder.path() / "two.model");
  EXPECT_EQ(io::read_text_file(folder.path() / "one.model"), io::read_text_file(folder.path() / "two.model"));
}

TEST(TrainSentencePiece, RefusesAVocabularyTooSmallForTheCharacters) {
  const TempFolder folder;
  EXPECT_THROW(train_sentencepiece(world_sentences(), 10, folder.path() / "t.model"), BadInput);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "t.model"));
}

}  // namespace
}  // namespace unigrpo::data

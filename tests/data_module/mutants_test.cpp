// Thousands of damaged copies of good files, in process: each is read or refused with BadInput;
// never a crash, a read out of bounds (under the sanitizers) or a hang.

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/error.h"
#include "base/rng.h"
#include "data/prompt_file.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/sentencepiece_tokenizer.h"
#include "data/tokenizer/sentencepiece_trainer.h"
#include "data/tokenizer/tokenizer.h"
#include "io/atomic_file.h"
#include "support/mutate.h"
#include "support/temp_folder.h"

namespace unigrpo::data {
namespace {

using testing::mutate;
using testing::TempFolder;

const std::filesystem::path kFolder = std::filesystem::path(UNIGRPO_TEST_DATA);

constexpr const char* kTexts[] = {"", "a small robot under the bright moon", "<|im_start|>\xEF\xAC\x81sh \xEF\xBC\xA1",
                                  "\xF0\x9F\x99\x82\n\t \xCC\x81  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

void use(const Tokenizer& tokenizer) {
  for (const char* text : kTexts) {
    for (const int64_t id : tokenizer.encode(text)) {
      ASSERT_GE(id, 0);
      ASSERT_LT(id, tokenizer.vocab_size());
    }
    tokenizer.decode(tokenizer.encode(text));
  }
}

// Truncating a file makes ext4 flush it at once; a fresh one is a hundred times faster.
std::filesystem::path write_fresh(const TempFolder& folder, const std::string& name, std::string_view text) {
  std::filesystem::remove(folder.path() / name);
  return folder.write(name, text);
}

// Counts the mutants that were accepted, so that a test sees whether both ways were taken.
template <typename Try>
int count_accepted(int num_mutants, const Try& attempt) {
  int accepted = 0;
  for (int i = 0; i < num_mutants; ++i) {
    RandomStream random({.seed = 11, .step = static_cast<uint64_t>(i), .purpose = Purpose::test});
    try {
      attempt(random);
      ++accepted;
    } catch (const BadInput& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
  return accepted;
}

TEST(Mutants, OfASentencePieceModelWithANormalizer) {
  const std::string good = io::read_text_file(kFolder / "malformed/tokenizer/tk02_spm_ok_custom_norm.model");
  const int accepted =
      count_accepted(3000, [&](RandomStream& random) { use(SentencePieceTokenizer(mutate(good, random), "m.model")); });
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 3000);
}

// Single bytes within the model, so that sizes stay right and the trie of the normalizer is
// reached.
TEST(Mutants, OfASentencePieceModelByteForByte) {
  const std::string good = io::read_text_file(kFolder / "malformed/tokenizer/tk02_spm_ok_custom_norm.model");
  const int accepted = count_accepted(6000, [&](RandomStream& random) {
    std::string bytes = good;
    for (uint64_t n = 1 + random.below(3); n > 0; --n) {
      // The normalizer is the latter half of the file.
      const size_t at = random.chance(0.7) ? good.size() / 2 + random.below(good.size() - good.size() / 2)
                                           : random.below(good.size());
      bytes[at] = static_cast<char>(random.chance(0.5) ? random.below(256) : bytes[at] ^ (1 << random.below(8)));
    }
    use(SentencePieceTokenizer(bytes, "m.model"));
  });
  EXPECT_GT(accepted, 100);
  EXPECT_LT(accepted, 6000);
}

TEST(Mutants, OfATrainedModel) {
  const TempFolder folder;
  std::vector<std::string> sentences;
  for (const char* shape : {"circle", "square", "triangle", "star"}) {
    sentences.push_back(std::string("two red ") + shape + "s left of a blue " + shape);
  }
  train_sentencepiece(sentences, 200, folder.path() / "t.model");
  const std::string good = io::read_text_file(folder.path() / "t.model");
  const int accepted =
      count_accepted(3000, [&](RandomStream& random) { use(SentencePieceTokenizer(mutate(good, random), "m.model")); });
  EXPECT_GT(accepted, 0);
}

TEST(Mutants, OfATokenizerJson) {
  const TempFolder folder;
  const std::string good = io::read_text_file(kFolder / "malformed/tokenizer/tk20_tj_ok.json");
  const int accepted = count_accepted(3000, [&](RandomStream& random) {
    use(*open_tokenizer(write_fresh(folder, "tokenizer.json", mutate(good, random))));
  });
  EXPECT_GT(accepted, 0);
}

TEST(Mutants, OfVocabularyMergesAndConfig) {
  const TempFolder folder;
  const std::vector<std::string> names = {"vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"};
  std::vector<std::string> good;
  for (const std::string& name : names) {
    good.push_back(io::read_text_file(kFolder / "bagel_tiny" / name));
    folder.write(name, good.back());
  }
  const int accepted = count_accepted(1500, [&](RandomStream& random) {
    const size_t chosen = random.below(names.size());
    write_fresh(folder, names[chosen], mutate(good[chosen], random));
    const auto restore = [&] { write_fresh(folder, names[chosen], good[chosen]); };
    try {
      use(*open_tokenizer(folder.path()));
    } catch (...) {
      restore();
      throw;
    }
    restore();
  });
  EXPECT_GT(accepted, 0);
}

TEST(Mutants, OfAPromptFile) {
  const TempFolder folder;
  const std::string good =
      R"({"prompt": "a circle left of a square", "id": "x", "seed": 3, "weight": 1.5, "tag": "position"}
{"prompt": "two", "images": ["a/b.png"], "include": [{"class": "square", "count": 1}, {"class": "circle", "count": 1, "position": ["left of", 0]}]}

{"prompt": "three", "tags": ["u"], "metadata": {"k": [1.5, null]}, "reference": "r"}
)";
  const int accepted = count_accepted(4000, [&](RandomStream& random) {
    for (const Prompt& prompt : read_prompt_file(write_fresh(folder, "p.jsonl", mutate(good, random)))) {
      ASSERT_FALSE(prompt.text.empty());
    }
  });
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace unigrpo::data

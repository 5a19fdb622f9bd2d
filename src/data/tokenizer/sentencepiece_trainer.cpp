#include "data/tokenizer/sentencepiece_trainer.h"

#include <sentencepiece_trainer.h>

#include <cctype>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "data/tokenizer/sentencepiece_log.h"
#include "io/atomic_file.h"

namespace unigrpo::data {
namespace {

class SpanIterator final : public sentencepiece::SentenceIterator {
 public:
  explicit SpanIterator(std::span<const std::string> sentences) : sentences_(sentences) {}
  bool done() const override { return at_ == sentences_.size(); }
  void Next() override { ++at_; }
  const std::string& value() const override { return sentences_[at_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::span<const std::string> sentences_;
  size_t at_ = 0;
};

std::string printable_ascii() {
  std::string text;
  for (char c = '!'; c <= '~'; ++c) text += c;
  return text;
}

// The library takes its candidate pieces from substrings that occur in two or more distinct words,
// so that a word which is no part of another, such as "two", could only become a piece in parts.
// One more sentence "two~" lets the whole word be a candidate; '~' is of another script, so no
// piece holds it and letters.
std::vector<std::string> with_word_candidates(std::span<const std::string> sentences) {
  std::set<std::string> words;
  for (const std::string& sentence : sentences) {
    std::string word;
    for (const char c : sentence + " ") {
      if (std::isalnum(static_cast<unsigned char>(c)) || static_cast<unsigned char>(c) >= 0x80) {
        word += c;
      } else if (!word.empty()) {
        words.insert(std::exchange(word, {}));
      }
    }
  }
  std::vector<std::string> all(sentences.begin(), sentences.end());
  for (const std::string& word : words) all.push_back(word + "~");
  return all;
}

}  // namespace

void train_sentencepiece(std::span<const std::string> sentences, int vocab_size,
                         const std::filesystem::path& model_path) {
  silence_sentencepiece();
  // One thread: the order of summation, and with it the last bits of the scores, depends on their
  // number.
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "unigram"},
      {"vocab_size", std::to_string(vocab_size)},
      {"hard_vocab_limit", "false"},
      {"character_coverage", "1.0"},
      {"required_chars", printable_ascii()},
      {"control_symbols", "<|im_start|>,<|im_end|>,<|vision_start|>,<|vision_end|>,<|endoftext|>"},
      {"user_defined_symbols", "<think>,</think>"},
      {"normalization_rule_name", "identity"},
      {"byte_fallback", "false"},
      {"bos_id", "-1"},
      {"eos_id", "-1"},
      {"pad_id", "-1"},
      {"num_threads", "1"},
      {"shuffle_input_sentence", "false"},
      {"minloglevel", "3"},
  };
  const std::vector<std::string> all = with_word_candidates(sentences);
  SpanIterator iterator(all);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &model);
  if (!status.ok()) {
    throw BadInput("{}: SentencePiece training failed on {} sentences with vocab_size {}: {}", model_path.string(),
                   sentences.size(), vocab_size, status.ToString());
  }
  io::write_file_atomic(model_path, model);
}

}  // namespace unigrpo::data

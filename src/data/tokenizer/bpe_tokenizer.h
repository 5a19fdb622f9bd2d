#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/tokenizer/bpe_files.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/tokenizer.h"

namespace unigrpo::data {

/// Byte-pair encoding: added tokens are cut out, the rest is normalized, cut into words, and each
/// word's characters are merged pair by pair, lowest rank first, leftmost of equals first. Special
/// tokens are those the files call special and those spelled "<|...|>". Safe to call from several
/// threads.
class BpeTokenizer final : public Tokenizer {
 public:
  /// `where` names the files in errors. Throws BadInput for a pattern that does not compile.
  BpeTokenizer(BpeFiles files, std::string_view where);

  int64_t vocab_size() const override { return static_cast<int64_t>(files_.tokens.size()); }
  /// Throws BadInput for text that is not valid UTF-8 or longer than 1 MiB.
  std::vector<int64_t> encode(std::string_view text) const override;
  /// Leaves out special tokens and ids outside the vocabulary. Byte-level tokens are joined and
  /// invalid UTF-8 becomes U+FFFD; other tokens are joined with spaces (what Hugging Face does
  /// without a decoder).
  std::string decode(const std::vector<int64_t>& ids) const override { return decode(ids, false); }
  std::string decode_all(const std::vector<int64_t>& ids) const override { return decode(ids, true); }
  const std::map<std::string, int64_t>& special_tokens() const override { return special_tokens_; }

 private:
  struct MergeRule {
    int32_t rank;
    int32_t merged;
  };

  /// Added tokens of one kind, found by their text.
  class Finder {
   public:
    void add(std::string text, const AddedToken* token);
    /// The longest token at the start of text, or null.
    const AddedToken* at(std::string_view text) const;

   private:
    std::unordered_map<std::string, const AddedToken*> tokens_;
    std::map<char, std::vector<size_t>> lengths_;  // by first byte, descending
  };

  template <typename Plain>
  static void split(const Finder& finder, std::string_view text, std::vector<int64_t>& ids, const Plain& plain);
  std::string decode(const std::vector<int64_t>& ids, bool with_special) const;
  void encode_plain(std::string_view text, std::vector<int64_t>& ids) const;
  void encode_word(const std::string& word, std::vector<int64_t>& ids) const;
  std::vector<int32_t> merge(std::string_view word) const;

  BpeFiles files_;
  PreTokenizer pre_tokenizer_;
  std::unordered_map<std::string_view, int32_t> id_of_token_;  // the model's own tokens; views into files_
  std::unordered_map<uint64_t, MergeRule> rules_;              // left id << 32 | right id
  Finder raw_tokens_;                                          // found before normalization
  Finder normalized_tokens_;                                   // found after it
  std::map<std::string, int64_t> special_tokens_;
  std::vector<bool> is_special_;  // [V]
  std::vector<bool> is_added_;    // [V]
  mutable std::mutex cache_mutex_;
  mutable std::unordered_map<std::string, std::vector<int32_t>> cache_;
};

}  // namespace unigrpo::data

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/pre_tokenizer.h"

namespace unigrpo::scorers {

/// CLIP's tokenizer: NFC, lower case, words by CLIP's pattern, byte-level BPE in which a word's last character is a
/// symbol of its own ("e</w>"). Ids are those of transformers' CLIPTokenizerFast; added tokens but the two special ones
/// are read as text. Safe to call from several threads.
class ClipTokenizer {
 public:
  /// Reads `vocab.json` + `merges.txt`, else `tokenizer.json`. Throws BadInput naming file and token.
  explicit ClipTokenizer(const std::filesystem::path& folder);

  struct Text {
    std::vector<int64_t> ids;  // start token, text, end token
    bool truncated = false;    // the text was longer than that
  };
  /// At most `max_length` ids. Throws BadInput for text that is not valid UTF-8, or with a word beyond all measure.
  Text encode(std::string_view text, int64_t max_length) const;

  int64_t vocab_size() const { return bpe_->vocab_size(); }  // highest id + 1
  int64_t eos_token_id() const { return eos_; }

 private:
  data::PreTokenizer pre_tokenizer_;
  std::unique_ptr<data::BpeTokenizer> bpe_;
  int64_t bos_ = 0, eos_ = 0;
};

}  // namespace unigrpo::scorers

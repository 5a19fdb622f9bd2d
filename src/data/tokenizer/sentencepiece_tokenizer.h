#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace unigrpo::data {

/// A SentencePiece `tokenizer.model` (unigram, bpe, word or char). Special tokens are the control
/// and unknown pieces and the user-defined pieces spelled "<|...|>"; of these, the ones spelled
/// "<|...|>" are recognised in a text, which SentencePiece alone never does for control pieces.
/// Text between two special tokens is encoded on its own. decode() leaves out special tokens and
/// ids outside the vocabulary.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  /// Throws BadInput naming the file.
  explicit SentencePieceTokenizer(const std::filesystem::path& path);
  /// From the bytes of a `.model` file; `where` names them in errors.
  SentencePieceTokenizer(std::string_view bytes, std::string_view where);
  ~SentencePieceTokenizer() override;

  int64_t vocab_size() const override { return vocab_size_; }
  /// Throws BadInput for text that is not valid UTF-8 or longer than 1 MiB.
  std::vector<int64_t> encode(std::string_view text) const override;
  std::string decode(const std::vector<int64_t>& ids) const override;
  /// What stands between two special tokens is decoded on its own, as it is encoded.
  std::string decode_all(const std::vector<int64_t>& ids) const override;
  const std::map<std::string, int64_t>& special_tokens() const override { return special_tokens_; }

 private:
  struct Library;  // keeps the library's header out of ours
  std::unique_ptr<Library> library_;
  int64_t vocab_size_ = 0;
  std::map<std::string, int64_t> special_tokens_;
  std::map<std::string, int64_t> spelled_tokens_;  // "<|...|>", cut out of a text before the library sees it
  std::vector<bool> is_special_;                   // [V]
};

}  // namespace unigrpo::data

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace unigrpo::data {

/// Text <-> token ids. encode() adds no special tokens; a special token's own spelling in the text becomes its
/// id (as Hugging Face added tokens do).
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int64_t vocab_size() const = 0;  // highest id + 1
  virtual std::vector<int64_t> encode(std::string_view text) const = 0;
  /// Special tokens are left out.
  virtual std::string decode(const std::vector<int64_t>& ids) const = 0;
  /// What was written, special tokens in their spelling.
  virtual std::string decode_all(const std::vector<int64_t>& ids) const = 0;
  /// Spelling -> id, e.g. {"<|im_start|>", 401}.
  virtual const std::map<std::string, int64_t>& special_tokens() const = 0;
};

/// Of a tokenizer's file.
inline constexpr size_t kMaxTokenizerBytes = size_t{64} << 20;

/// Throws BadInput for a text over 1 MiB (SentencePiece counts normalized bytes in an int) or that is no UTF-8.
void require_encodable(std::string_view text);

/// Opens what is there: `tokenizer.model` (SentencePiece), `tokenizer.json` (BPE), or a folder: of vocab.json +
/// merges.txt (+ tokenizer_config.json, added_tokens.json), else its tokenizer.json, else its tokenizer.model.
/// Throws BadInput naming the file.
std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& path);

}  // namespace unigrpo::data

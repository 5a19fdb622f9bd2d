#include "data/tokenizer/tokenizer.h"

#include "base/error.h"
#include "base/text.h"
#include "data/tokenizer/bpe_files.h"
#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/sentencepiece_tokenizer.h"

namespace unigrpo::data {
namespace {

std::unique_ptr<Tokenizer> open_file(const std::filesystem::path& path) {
  if (path.extension() == ".json") {
    return std::make_unique<BpeTokenizer>(read_tokenizer_json(path), path.string());
  }
  return std::make_unique<SentencePieceTokenizer>(path);
}

}  // namespace

void require_encodable(std::string_view text) {
  constexpr size_t kMaxBytes = size_t{1} << 20;
  if (text.size() > kMaxBytes) {
    throw BadInput("text of {} bytes is too long to encode, at most {} are allowed", text.size(), kMaxBytes);
  }
  if (!is_valid_utf8(text)) throw BadInput("text to encode is not valid UTF-8: {}", in_quotes(text));
}

std::unique_ptr<Tokenizer> open_tokenizer(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return open_file(path);
  const auto has = [&](const char* name) { return std::filesystem::exists(path / name, ignored); };
  const bool has_vocab = has("vocab.json");
  const bool has_merges = has("merges.txt");
  if (!(has_vocab && has_merges)) {
    for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
      if (has(name)) return open_file(path / name);
    }
    if (!has_vocab && !has_merges) {
      throw BadInput(
          "{}: no tokenizer in the folder: vocab.json + merges.txt, tokenizer.json or "
          "tokenizer.model is expected",
          path.string());
    }
    throw BadInput("{}: {} is missing beside {}", path.string(), has_vocab ? "merges.txt" : "vocab.json",
                   has_vocab ? "vocab.json" : "merges.txt");
  }
  return std::make_unique<BpeTokenizer>(read_vocab_and_merges(path), path.string());
}

}  // namespace unigrpo::data

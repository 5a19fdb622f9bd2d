#include "data/tokenizer/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "data/tokenizer/pre_tokenizer.h"
#include "data/tokenizer/sentencepiece_log.h"
#include "data/tokenizer/sentencepiece_model.h"
#include "io/atomic_file.h"

namespace unigrpo::data {
namespace {}  // namespace

struct SentencePieceTokenizer::Library {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceTokenizer::SentencePieceTokenizer(const std::filesystem::path& path)
    : SentencePieceTokenizer(io::read_text_file(path, kMaxTokenizerBytes), path.string()) {}

SentencePieceTokenizer::SentencePieceTokenizer(std::string_view bytes, std::string_view where)
    : library_(std::make_unique<Library>()) {
  using Type = SentencePieceModel::Type;
  const SentencePieceModel model = parse_sentencepiece_model(bytes, where);
  silence_sentencepiece();
  const auto status = library_->processor.LoadFromSerializedProto(model.serialized);
  if (!status.ok()) throw BadInput("{}: SentencePiece model: {}", where, status.ToString());
  vocab_size_ = static_cast<int64_t>(model.pieces.size());
  is_special_.resize(model.pieces.size());
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& [text, score, type] = model.pieces[id];
    const bool spelled = has_special_spelling(text);
    if (type != Type::control && type != Type::unknown && !(type == Type::user_defined && spelled)) {
      continue;
    }
    is_special_[id] = true;
    special_tokens_[text] = static_cast<int64_t>(id);
    if (spelled) spelled_tokens_[text] = static_cast<int64_t>(id);
  }
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::vector<int64_t> SentencePieceTokenizer::encode(std::string_view text) const {
  require_encodable(text);
  std::vector<int64_t> ids;
  const auto encode_plain = [&](std::string_view plain) {
    if (plain.empty()) return;
    std::vector<int> found;
    const auto status = library_->processor.Encode(plain, &found);
    if (!status.ok()) throw RuntimeFailure("SentencePiece cannot encode: {}", status.ToString());
    ids.insert(ids.end(), found.begin(), found.end());
  };
  size_t plain_begin = 0;
  for (size_t at = text.find("<|"); at != std::string_view::npos; at = text.find("<|", at)) {
    const std::pair<const std::string, int64_t>* longest = nullptr;
    for (const auto& token : spelled_tokens_) {
      if (text.substr(at).starts_with(token.first) &&
          (longest == nullptr || token.first.size() > longest->first.size())) {
        longest = &token;
      }
    }
    if (longest == nullptr) {
      ++at;
      continue;
    }
    encode_plain(text.substr(plain_begin, at - plain_begin));
    ids.push_back(longest->second);
    at += longest->first.size();
    plain_begin = at;
  }
  encode_plain(text.substr(plain_begin));
  return ids;
}

std::string SentencePieceTokenizer::decode(const std::vector<int64_t>& ids) const {
  std::vector<int> plain;
  for (const int64_t id : ids) {
    if (id >= 0 && id < vocab_size_ && !is_special_[static_cast<size_t>(id)]) {
      plain.push_back(static_cast<int>(id));
    }
  }
  std::string text;
  if (plain.empty()) return text;
  const auto status = library_->processor.Decode(plain, &text);
  if (!status.ok()) throw RuntimeFailure("SentencePiece cannot decode: {}", status.ToString());
  return text;
}

std::string SentencePieceTokenizer::decode_all(const std::vector<int64_t>& ids) const {
  std::string text;
  std::vector<int64_t> plain;
  for (const int64_t id : ids) {
    const auto special = std::ranges::find(special_tokens_, id, &std::pair<const std::string, int64_t>::second);
    if (special == special_tokens_.end()) {
      plain.push_back(id);
      continue;
    }
    text += decode(std::exchange(plain, {})) + special->first;
  }
  return text + decode(plain);
}

}  // namespace unigrpo::data

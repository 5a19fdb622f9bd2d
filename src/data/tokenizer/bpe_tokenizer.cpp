#include "data/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "base/utf8.h"

namespace unigrpo::data {
namespace {

constexpr size_t kMaxCachedWords = 50'000;
constexpr size_t kMaxCachedWordBytes = 64;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

void BpeTokenizer::Finder::add(std::string text, const AddedToken* token) {
  std::vector<size_t>& lengths = lengths_[text.front()];
  if (std::find(lengths.begin(), lengths.end(), text.size()) == lengths.end()) {
    lengths.push_back(text.size());
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
  }
  tokens_.emplace(std::move(text), token);
}

const AddedToken* BpeTokenizer::Finder::at(std::string_view text) const {
  const auto lengths = lengths_.find(text.front());
  if (lengths == lengths_.end()) return nullptr;
  for (const size_t length : lengths->second) {
    if (length > text.size()) continue;
    const auto token = tokens_.find(std::string(text.substr(0, length)));
    if (token != tokens_.end()) return token->second;
  }
  return nullptr;
}

BpeTokenizer::BpeTokenizer(BpeFiles files, std::string_view where)
    : files_(std::move(files)),
      pre_tokenizer_(files_.steps, where),
      is_special_(files_.tokens.size()),
      is_added_(files_.tokens.size()) {
  id_of_token_.reserve(files_.tokens.size());
  for (size_t id = 0; id < files_.tokens.size(); ++id) {
    if (files_.is_model_token[id]) id_of_token_.emplace(files_.tokens[id], static_cast<int32_t>(id));
  }
  rules_.reserve(files_.merges.size());
  for (size_t rank = 0; rank < files_.merges.size(); ++rank) {
    const auto& [left, right, merged] = files_.merges[rank];
    rules_.try_emplace(pair_key(static_cast<int32_t>(left), static_cast<int32_t>(right)),
                       MergeRule{static_cast<int32_t>(rank), static_cast<int32_t>(merged)});
  }
  for (const AddedToken& token : files_.added_tokens) {
    const auto id = static_cast<size_t>(token.id);
    is_added_[id] = true;
    if (token.normalized) {
      normalized_tokens_.add(files_.nfc ? to_nfc(token.text) : token.text, &token);
    } else {
      raw_tokens_.add(token.text, &token);
    }
    if (!token.special && !has_special_spelling(token.text)) continue;
    is_special_[id] = true;
    special_tokens_[token.text] = token.id;
  }
}

// Cuts the finder's tokens out of text: their ids go to `ids`, what stands between them to `plain`.
template <typename Plain>
void BpeTokenizer::split(const Finder& finder, std::string_view text, std::vector<int64_t>& ids, const Plain& plain) {
  size_t plain_begin = 0;
  for (size_t at = 0; at < text.size();) {
    const AddedToken* token = finder.at(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t plain_end = at;
    at += token->text.size();
    if (token->strip_left) {
      while (plain_end > plain_begin && is_space(text[plain_end - 1])) --plain_end;
    }
    if (token->strip_right) {
      while (at < text.size() && is_space(text[at])) ++at;
    }
    plain(text.substr(plain_begin, plain_end - plain_begin));
    ids.push_back(token->id);
    plain_begin = at;
  }
  plain(text.substr(plain_begin));
}

std::vector<int64_t> BpeTokenizer::encode(std::string_view text) const {
  require_encodable(text);
  std::vector<int64_t> ids;
  split(raw_tokens_, text, ids, [&](std::string_view raw) {
    if (raw.empty()) return;
    const std::string normalized = files_.nfc ? to_nfc(raw) : std::string(raw);
    split(normalized_tokens_, normalized, ids, [&](std::string_view plain) { encode_plain(plain, ids); });
  });
  return ids;
}

void BpeTokenizer::encode_plain(std::string_view text, std::vector<int64_t>& ids) const {
  for (const std::string& word : pre_tokenizer_.words(text)) encode_word(word, ids);
}

void BpeTokenizer::encode_word(const std::string& word, std::vector<int64_t>& ids) const {
  const bool cached = word.size() <= kMaxCachedWordBytes;
  if (cached) {
    const std::lock_guard lock(cache_mutex_);
    if (const auto hit = cache_.find(word); hit != cache_.end()) {
      ids.insert(ids.end(), hit->second.begin(), hit->second.end());
      return;
    }
  }
  std::vector<int32_t> found = merge(word);
  ids.insert(ids.end(), found.begin(), found.end());
  if (cached) {
    const std::lock_guard lock(cache_mutex_);
    if (cache_.size() < kMaxCachedWords) cache_.emplace(word, std::move(found));
  }
}

std::vector<int32_t> BpeTokenizer::merge(std::string_view word) const {
  if (files_.ignore_merges) {
    if (const auto whole = id_of_token_.find(word); whole != id_of_token_.end()) {
      return {whole->second};
    }
  }
  struct Symbol {
    int32_t id;
    int64_t previous, next;  // -1 at the ends
    bool alive;
  };
  std::vector<Symbol> symbols;
  bool after_unknown = false;
  while (!word.empty()) {
    const std::string_view character = word.substr(0, character_bytes(word));
    word.remove_prefix(character.size());
    const auto known = id_of_token_.find(character);
    const bool is_unknown = known == id_of_token_.end();
    const bool fused = is_unknown && after_unknown && files_.fuse_unknown;
    after_unknown = is_unknown;
    if (fused || (is_unknown && !files_.unknown_id)) continue;
    const auto place = static_cast<int64_t>(symbols.size());
    symbols.push_back({.id = is_unknown ? static_cast<int32_t>(*files_.unknown_id) : known->second,
                       .previous = place - 1,
                       .next = place + 1,
                       .alive = true});
  }
  if (symbols.empty()) return {};
  symbols.back().next = -1;

  // Candidates by (rank, place, ids); one whose symbols have changed since is passed over.
  using Candidate = std::tuple<int32_t, int64_t, int32_t, int32_t>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto consider = [&](int64_t left) {
    if (left < 0) return;
    const Symbol& symbol = symbols[static_cast<size_t>(left)];
    if (symbol.next < 0) return;
    const int32_t right_id = symbols[static_cast<size_t>(symbol.next)].id;
    const auto rule = rules_.find(pair_key(symbol.id, right_id));
    if (rule != rules_.end()) candidates.emplace(rule->second.rank, left, symbol.id, right_id);
  };
  for (size_t i = 0; i < symbols.size(); ++i) consider(static_cast<int64_t>(i));
  while (!candidates.empty()) {
    const auto [rank, place, left_id, right_id] = candidates.top();
    candidates.pop();
    Symbol& left = symbols[static_cast<size_t>(place)];
    if (!left.alive || left.id != left_id || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (right.id != right_id) continue;
    left.id = rules_.at(pair_key(left_id, right_id)).merged;
    right.alive = false;
    left.next = right.next;
    if (right.next >= 0) symbols[static_cast<size_t>(right.next)].previous = place;
    consider(left.previous);
    consider(place);
  }
  std::vector<int32_t> ids;
  for (int64_t at = 0; at >= 0; at = symbols[static_cast<size_t>(at)].next) {
    ids.push_back(symbols[static_cast<size_t>(at)].id);
  }
  return ids;
}

std::string BpeTokenizer::decode(const std::vector<int64_t>& ids, bool with_special) const {
  std::string bytes;
  bool first = true;
  for (const int64_t id : ids) {
    if (id < 0 || id >= vocab_size() || (is_special_[static_cast<size_t>(id)] && !with_special)) continue;
    const std::string& token = files_.tokens[static_cast<size_t>(id)];
    if (files_.byte_level) {
      bytes += is_added_[static_cast<size_t>(id)] ? token : ByteAlphabet::get().to_bytes(token);
    } else {
      if (!first) bytes += ' ';
      bytes += token;
    }
    first = false;
  }
  return valid_utf8(bytes);
}

}  // namespace unigrpo::data

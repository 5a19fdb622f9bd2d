#include "scorers/clip_tokenizer.h"

#include <utf8proc.h>

#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace unigrpo::scorers {
namespace {

using nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{64} << 20;
constexpr std::string_view kBos = "<|startoftext|>";
constexpr std::string_view kEos = "<|endoftext|>";
constexpr std::string_view kEndOfWord = "</w>";
constexpr std::string_view kSpecials = R"(<\|startoftext\|>|<\|endoftext\|>)";
constexpr std::string_view kWords = R"('s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+)";

/// The special tokens are cut out first, whatever stands before them; a word is then a whole one of these, or CLIP's.
std::vector<data::PreTokenizerStep> word_steps() {
  using Keep = data::PreTokenizerStep::Keep;
  return {{.pattern = std::string(kSpecials), .keep = Keep::both},
          {.pattern = std::string(kSpecials) + "|" + std::string(kWords), .keep = Keep::matches}};
}

/// Unicode lower case, character by character, as tokenizers' Lowercase.
std::string to_lower(std::string_view text) {
  std::string lower;
  while (!text.empty()) {
    utf8proc_int32_t code = 0;
    const auto size = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                       static_cast<utf8proc_ssize_t>(text.size()), &code);
    if (size < 1) throw BadInput("text to encode is not valid UTF-8: {}", in_quotes(text));
    text.remove_prefix(static_cast<size_t>(size));
    utf8proc_uint8_t bytes[4];
    const auto length = utf8proc_encode_char(utf8proc_tolower(code), bytes);
    lower.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
    if (code == 0x130) lower += "\xCC\x87";  // capital I with dot: the one that becomes two characters
  }
  return lower;
}

/// A byte at the end of a word as one character, in Unicode's private area: data::BpeTokenizer starts from characters.
std::string last_character(uint8_t byte) {
  return {'\xEE', static_cast<char>(0x80 | byte >> 6), static_cast<char>(0x80 | (byte & 0x3F))};
}

/// A word's bytes in the byte-level alphabet, the last one in that of last_character().
std::string spelled(std::string_view word) {
  return data::ByteAlphabet::get().to_characters(word.substr(0, word.size() - 1)) +
         last_character(static_cast<uint8_t>(word.back()));
}

/// The tokenizer's files, with a name for what errors are about.
struct Source {
  std::string where;
  json vocab;                                               // token -> id
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
};

std::pair<std::string, std::string> split_merge(const std::string& where, std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string_view::npos) {
    throw BadInput("{}: a merge must be two tokens with one space between, found {}", where, in_quotes(line, 60));
  }
  return {std::string(line.substr(0, space)), std::string(line.substr(space + 1))};
}

Source read_vocab_and_merges(const std::filesystem::path& folder) {
  Source source{.where = (folder / "vocab.json").string(),
                .vocab = io::read_json_file(folder / "vocab.json", {}, kMaxFileBytes),
                .merges = {}};
  const std::filesystem::path path = folder / "merges.txt";
  const std::string text = io::read_text_file(path, kMaxFileBytes);
  for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    if (line.empty() || line.starts_with("#version")) continue;
    source.merges.push_back(split_merge(fmt::format("{}:{}", path.string(), number), line));
  }
  return source;
}

Source read_tokenizer_json(const std::filesystem::path& path) {
  const std::string where = path.string();
  const json root = io::read_json_file(path, {}, kMaxFileBytes);
  const json model = root.is_object() && root.contains("model") ? root.at("model") : json();
  if (!model.is_object() || model.value("type", json()) != "BPE" ||
      model.value("end_of_word_suffix", json()) != kEndOfWord || !model.contains("vocab") ||
      !model.contains("merges") || !model.at("merges").is_array()) {
    throw BadInput(
        "{}: expected a CLIP tokenizer: a model of type BPE with vocab, merges and end_of_word_suffix \"{}\"", where,
        kEndOfWord);
  }
  Source source{.where = where + ": model.vocab", .vocab = model.at("vocab"), .merges = {}};
  for (const json& merge : model.at("merges")) {
    if (merge.is_string()) {
      source.merges.push_back(split_merge(where + ": model.merges", merge.get_ref<const std::string&>()));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      source.merges.emplace_back(merge[0], merge[1]);
    } else {
      throw BadInput("{}: model.merges: a merge must be two tokens, found {}", where, in_quotes(merge.dump(), 60));
    }
  }
  return source;
}

/// Tokens by id, as the files spell them.
std::vector<std::string> tokens_of(const Source& source) {
  if (!source.vocab.is_object() || source.vocab.empty())
    throw BadInput("{}: expected an object of tokens and ids", source.where);
  std::vector<std::string> tokens(source.vocab.size());
  for (const auto& [token, id] : source.vocab.items()) {
    if (token.empty()) throw BadInput("{}: a token is empty", source.where);
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= tokens.size() || !tokens[id.get<uint64_t>()].empty()) {
      throw BadInput("{}: id of token {} must be one of its own from 0 to {}, found {}", source.where,
                     in_quotes(token, 40), tokens.size() - 1, in_quotes(id.dump(), 40));
    }
    tokens[id.get<uint64_t>()] = token;
  }
  return tokens;
}

data::BpeFiles to_bpe(const Source& source) {
  data::BpeFiles files;
  files.tokens = tokens_of(source);
  files.is_model_token.assign(files.tokens.size(), true);
  std::unordered_map<std::string, int64_t> ids;
  for (size_t id = 0; id < files.tokens.size(); ++id) ids.emplace(files.tokens[id], static_cast<int64_t>(id));
  const auto id_of = [&](const std::string& token) {
    const auto found = ids.find(token);
    if (found == ids.end()) throw BadInput("{}: token {} is missing", source.where, in_quotes(token, 40));
    return found->second;
  };
  for (const auto& [left, right] : source.merges)
    files.merges.push_back({id_of(left), id_of(right), id_of(left + right)});
  files.unknown_id = id_of(std::string(kEos));
  for (int byte = 0; byte < 256; ++byte) {
    const std::string character = data::ByteAlphabet::get().to_characters(std::string(1, static_cast<char>(byte)));
    const auto last = ids.find(character + std::string(kEndOfWord));
    if (last != ids.end()) files.tokens[static_cast<size_t>(last->second)] = last_character(static_cast<uint8_t>(byte));
  }
  return files;
}

Source read_source(const std::filesystem::path& folder) {
  std::error_code ignored;
  const bool in_one = !std::filesystem::exists(folder / "vocab.json", ignored) &&
                      std::filesystem::exists(folder / "tokenizer.json", ignored);
  return in_one ? read_tokenizer_json(folder / "tokenizer.json") : read_vocab_and_merges(folder);
}

}  // namespace

ClipTokenizer::ClipTokenizer(const std::filesystem::path& folder) : pre_tokenizer_(word_steps(), folder.string()) {
  const Source source = read_source(folder);
  if (!source.vocab.contains(kBos)) throw BadInput("{}: token '{}' is missing", source.where, kBos);
  data::BpeFiles files = to_bpe(source);
  eos_ = *files.unknown_id;
  bos_ = source.vocab.at(std::string(kBos)).get<int64_t>();
  bpe_ = std::make_unique<data::BpeTokenizer>(std::move(files), source.where);
}

ClipTokenizer::Text ClipTokenizer::encode(std::string_view text, int64_t max_length) const {
  if (!is_valid_utf8(text)) throw BadInput("text to encode is not valid UTF-8: {}", in_quotes(text));
  Text result{.ids = {bos_}};
  for (const std::string& word : pre_tokenizer_.words(to_lower(data::to_nfc(text)))) {
    if (word == kBos || word == kEos) {
      result.ids.push_back(word == kBos ? bos_ : eos_);
      continue;
    }
    const std::vector<int64_t> ids = bpe_->encode(spelled(word));
    result.ids.insert(result.ids.end(), ids.begin(), ids.end());
  }
  result.truncated = static_cast<int64_t>(result.ids.size()) > max_length - 1;
  if (result.truncated) result.ids.resize(static_cast<size_t>(max_length - 1));
  result.ids.push_back(eos_);
  return result;
}

}  // namespace unigrpo::scorers

#include "data/tokenizer/bpe_files.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "data/tokenizer/tokenizer.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace unigrpo::data {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{4} << 20;
constexpr size_t kMaxTokenBytes = 1024;
constexpr size_t kMaxTokens = 1'000'000;
constexpr size_t kMaxMerges = 2'000'000;
constexpr int kMaxSequenceDepth = 4;

/// Gathers tokens from several places and gives them out as a table by id.
class TokenTable {
 public:
  /// `where` names file and key of this token in errors.
  void add(std::string_view where, const std::string& text, const Json& id) {
    check_text(where, text);
    if (!id.is_number_unsigned() && !(id.is_number_integer() && id.get<int64_t>() >= 0)) {
      throw BadInput("{}: id of token {} must be an integer in 0..vocab size - 1, found {}", where, in_quotes(text, 40),
                     in_quotes(id.dump(), 40));
    }
    add(where, text, id.get<uint64_t>());
  }

  void add(std::string_view where, const std::string& text, uint64_t id) {
    if (const auto [other, is_new] = id_of_text_.try_emplace(text, id); !is_new) {
      if (other->second == id) return;  // a vocabulary token that is an added token as well
      throw BadInput("{}: token {} has id {}, but id {} elsewhere (duplicate token)", where, in_quotes(text, 40), id,
                     other->second);
    }
    if (const auto [other, is_new] = text_of_id_.try_emplace(id, text); !is_new) {
      throw BadInput("{}: id {} of token {} is a duplicate: token {} has it already", where, id, in_quotes(text, 40),
                     in_quotes(other->second, 40));
    }
    if (id_of_text_.size() > kMaxTokens) {
      throw BadInput("{}: vocab has more than {} tokens", where, kMaxTokens);
    }
  }

  bool has(const std::string& text) const { return id_of_text_.contains(text); }
  int64_t id(const std::string& text) const { return static_cast<int64_t>(id_of_text_.at(text)); }

  /// The tokens by id. Throws unless the ids are 0..size - 1.
  std::vector<std::string> by_id(std::string_view where) const {
    std::vector<std::string> tokens(id_of_text_.size());
    for (const auto& [id, text] : text_of_id_) {
      if (id >= tokens.size()) {
        throw BadInput("{}: vocab: id {} of token {} is out of range, expected 0..{} (vocab size - 1)", where, id,
                       in_quotes(text, 40), tokens.size() - 1);
      }
      tokens[id] = text;
    }
    return tokens;
  }

  static void check_text(std::string_view where, const std::string& text) {
    if (text.empty()) throw BadInput("{}: a token is empty", where);
    if (text.size() > kMaxTokenBytes) {
      throw BadInput("{}: token {} is too long: {} bytes, the limit is {}", where, in_quotes(text, 40), text.size(),
                     kMaxTokenBytes);
    }
    if (text.find('\0') != std::string::npos) {
      throw BadInput("{}: token {} holds a NUL character", where, in_quotes(text, 40));
    }
  }

 private:
  std::unordered_map<std::string, uint64_t> id_of_text_;
  std::unordered_map<uint64_t, std::string> text_of_id_;
};

void check_object(std::string_view where, std::string_view name, const Json& value) {
  if (!value.is_object()) {
    throw BadInput("{}: {} must be an object, found {}", where, name, value.type_name());
  }
}

const Json& member(std::string_view where, const Json& object, const char* key) {
  const auto value = object.find(key);
  if (value == object.end()) throw BadInput("{}: {} is missing", where, key);
  return *value;
}

bool is_absent(const Json& object, const char* key) {
  const auto value = object.find(key);
  return value == object.end() || value->is_null();
}

std::string string_member(std::string_view where, const Json& object, const char* key) {
  const Json& value = member(where, object, key);
  if (!value.is_string()) {
    throw BadInput("{}: {} must be a string, found {}", where, key, value.type_name());
  }
  return value.get<std::string>();
}

bool bool_member(std::string_view where, const Json& object, const char* key, bool fallback) {
  if (is_absent(object, key)) return fallback;
  const Json& value = object.at(key);
  if (!value.is_boolean()) {
    throw BadInput("{}: {} must be true or false, found {}", where, key, value.type_name());
  }
  return value.get<bool>();
}

void read_vocab(std::string_view where, const Json& vocab, TokenTable& table) {
  check_object(where, "vocab", vocab);
  if (vocab.empty()) throw BadInput("{}: vocab is empty", where);
  for (const auto& [text, id] : vocab.items()) table.add(where, text, id);
}

void add_merge(const std::string& where, const std::string& left, const std::string& right, const TokenTable& table,
               std::unordered_set<uint64_t>& seen, std::vector<BpeFiles::Merge>& merges) {
  for (const std::string& text : {left, right, left + right}) {
    if (text.empty()) throw BadInput("{}: merge with an empty token", where);
    if (text.size() > kMaxTokenBytes || !table.has(text)) {
      throw BadInput("{}: merge of {} and {}: unknown token {}, it is not in the vocab", where, in_quotes(left, 40),
                     in_quotes(right, 40), in_quotes(text, 40));
    }
  }
  const BpeFiles::Merge merge{table.id(left), table.id(right), table.id(left + right)};
  const uint64_t key = static_cast<uint64_t>(merge.left) << 32 | static_cast<uint64_t>(merge.right);
  if (!seen.insert(key).second) {
    throw BadInput("{}: duplicate merge of {} and {}", where, in_quotes(left, 40), in_quotes(right, 40));
  }
  if (merges.size() == kMaxMerges) throw BadInput("{}: more than {} merges", where, kMaxMerges);
  merges.push_back(merge);
}

// "left right"; false where the line is not two parts with one space between.
bool split_merge(std::string_view line, std::string& left, std::string& right) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
    return false;
  }
  left = line.substr(0, space);
  right = line.substr(space + 1);
  return !left.empty() && !right.empty();
}

// The attributes that tokenizer.json's added_tokens and added_tokens_decoder share.
AddedToken read_added_token(const std::string& where, const Json& entry) {
  check_object(where, "added token", entry);
  AddedToken token;
  token.text = string_member(where, entry, "content");
  token.special = bool_member(where, entry, "special", false);
  token.normalized = bool_member(where, entry, "normalized", !token.special);
  token.strip_left = bool_member(where, entry, "lstrip", false);
  token.strip_right = bool_member(where, entry, "rstrip", false);
  if (bool_member(where, entry, "single_word", false)) {
    throw BadInput("{}: added token {} is single_word, which is not supported", where, in_quotes(token.text, 40));
  }
  return token;
}

PreTokenizerStep read_split(const std::string& where, const Json& config) {
  const Json& pattern = member(where, config, "pattern");
  check_object(where, "pattern", pattern);
  PreTokenizerStep step;
  if (pattern.contains("Regex")) {
    step.pattern = string_member(where, pattern, "Regex");
  } else {
    for (const char c : string_member(where, pattern, "String")) {
      if (static_cast<uint8_t>(c) < 0x80 && !std::isalnum(static_cast<unsigned char>(c))) {
        step.pattern += '\\';
      }
      step.pattern += c;
    }
  }
  if (step.pattern.empty()) throw BadInput("{}: Split pattern is empty", where);
  const std::string behavior = string_member(where, config, "behavior");
  const bool invert = bool_member(where, config, "invert", false);
  if (behavior == "Removed") {
    step.keep = invert ? PreTokenizerStep::Keep::matches : PreTokenizerStep::Keep::gaps;
  } else if (behavior != "Isolated") {
    throw BadInput("{}: Split behavior {} is not supported, expected Isolated or Removed", where,
                   in_quotes(behavior, 40));
  }
  return step;
}

void read_pre_tokenizer(const std::string& where, const Json& config, int depth, BpeFiles& files) {
  check_object(where, "pre_tokenizer", config);
  const std::string type = string_member(where, config, "type");
  if (type == "Sequence") {
    const Json& parts = member(where, config, "pretokenizers");
    if (!parts.is_array() || depth == kMaxSequenceDepth || parts.size() > 16) {
      throw BadInput("{}: pretokenizers must be a short list, nested at most {} deep", where, kMaxSequenceDepth);
    }
    for (const Json& part : parts) read_pre_tokenizer(where, part, depth + 1, files);
  } else if (type == "Whitespace") {
    files.steps.push_back(whitespace_step());
  } else if (type == "WhitespaceSplit") {
    files.steps.push_back(whitespace_split_step());
  } else if (type == "ByteLevel") {
    files.steps.push_back(byte_level_step(bool_member(where, config, "add_prefix_space", true),
                                          bool_member(where, config, "use_regex", true)));
    files.byte_level = true;
  } else if (type == "Split") {
    files.steps.push_back(read_split(where, config));
  } else {
    throw BadInput(
        "{}: pre_tokenizer type {} is not supported, expected Whitespace, "
        "WhitespaceSplit, ByteLevel, Split or Sequence",
        where, in_quotes(type, 40));
  }
}

void read_normalizer(const std::string& where, const Json& config, int depth, BpeFiles& files) {
  check_object(where, "normalizer", config);
  const std::string type = string_member(where, config, "type");
  if (type == "NFC") {
    files.nfc = true;
    return;
  }
  if (type == "Sequence" && depth < kMaxSequenceDepth) {
    const Json& parts = member(where, config, "normalizers");
    if (parts.is_array()) {
      for (const Json& part : parts) read_normalizer(where, part, depth + 1, files);
      return;
    }
  }
  throw BadInput("{}: normalizer type {} is not supported, expected NFC or null", where, in_quotes(type, 40));
}

// Settings of the BPE model that would change ids in ways that are not implemented.
void check_model_settings(const std::string& where, const Json& model) {
  const std::string type = string_member(where, model, "type");
  if (type != "BPE") {
    throw BadInput("{}: model type {} is not supported, expected BPE", where, in_quotes(type, 40));
  }
  if (!is_absent(model, "dropout") && model.at("dropout") != 0.0) {
    throw BadInput("{}: dropout must be null", where);
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!is_absent(model, key) && model.at(key) != "") {
      throw BadInput("{}: {} is not supported, expected null", where, key);
    }
  }
  if (bool_member(where, model, "byte_fallback", false)) {
    throw BadInput("{}: byte_fallback is not supported, expected false", where);
  }
}

void read_merge_list(const std::string& where, const Json& list, const TokenTable& table, BpeFiles& files) {
  if (!list.is_array()) {
    throw BadInput("{}: merges must be a list, found {}", where, list.type_name());
  }
  std::unordered_set<uint64_t> seen;
  for (size_t rank = 0; rank < list.size(); ++rank) {
    const std::string here = fmt::format("{}: merges[{}]", where, rank);
    const Json& item = list[rank];
    std::string left, right;
    const bool is_pair = item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string();
    if (is_pair) {
      left = item[0].get<std::string>();
      right = item[1].get<std::string>();
    } else if (!item.is_string() || !split_merge(item.get_ref<const std::string&>(), left, right)) {
      throw BadInput("{}: merge must be \"left right\" or [\"left\", \"right\"], found {}", here,
                     in_quotes(item.dump(), 60));
    }
    add_merge(here, left, right, table, seen, files.merges);
  }
}

void check_decoder(const std::string& where, const Json& root, const BpeFiles& files) {
  if (is_absent(root, "decoder")) return;
  check_object(where, "decoder", root.at("decoder"));
  const std::string type = string_member(where, root.at("decoder"), "type");
  if (type != "ByteLevel" || !files.byte_level) {
    throw BadInput("{}: decoder type {} is not supported, expected {}", where, in_quotes(type, 40),
                   files.byte_level ? "ByteLevel" : "null");
  }
}

void finish(std::string_view where, const TokenTable& table, const Json& vocab, BpeFiles& files) {
  files.tokens = table.by_id(where);
  files.is_model_token.resize(files.tokens.size());
  for (const auto& [text, id] : vocab.items()) {
    files.is_model_token[static_cast<size_t>(table.id(text))] = true;
  }
}

void add_unique(const std::string& where, AddedToken token, std::unordered_set<std::string>& seen, BpeFiles& files) {
  if (!seen.insert(token.text).second) {
    throw BadInput("{}: duplicate added token {}", where, in_quotes(token.text, 40));
  }
  files.added_tokens.push_back(std::move(token));
}

}  // namespace

BpeFiles read_tokenizer_json(const std::filesystem::path& path) {
  const std::string where = path.string();
  const Json root = io::read_json_file(path, {}, kMaxTokenizerBytes);
  if (!root.is_object()) {
    throw BadInput("{}: tokenizer JSON must be an object, found {}", where, root.type_name());
  }
  const Json& model = member(where, root, "model");
  const std::string in_model = where + ": model";
  check_object(where, "model", model);
  check_model_settings(in_model, model);

  BpeFiles files;
  TokenTable table;
  const Json& vocab = member(in_model, model, "vocab");
  read_vocab(in_model + ": vocab", vocab, table);
  read_merge_list(in_model, member(in_model, model, "merges"), table, files);
  files.fuse_unknown = bool_member(in_model, model, "fuse_unk", false);
  files.ignore_merges = bool_member(in_model, model, "ignore_merges", false);
  if (!is_absent(model, "unk_token")) {
    const std::string unknown = string_member(in_model, model, "unk_token");
    if (!table.has(unknown)) {
      throw BadInput("{}: unk_token {} is not in the vocab", in_model, in_quotes(unknown, 40));
    }
    files.unknown_id = table.id(unknown);
  }

  if (!is_absent(root, "added_tokens")) {
    const Json& added = root.at("added_tokens");
    if (!added.is_array()) {
      throw BadInput("{}: added_tokens must be a list, found {}", where, added.type_name());
    }
    std::unordered_set<std::string> seen;
    for (size_t index = 0; index < added.size(); ++index) {
      const std::string here = fmt::format("{}: added_tokens[{}]", where, index);
      AddedToken token = read_added_token(here, added[index]);
      table.add(here, token.text, member(here, added[index], "id"));
      token.id = table.id(token.text);
      add_unique(here, std::move(token), seen, files);
    }
  }
  finish(where, table, vocab, files);
  if (!is_absent(root, "normalizer")) read_normalizer(where, root.at("normalizer"), 0, files);
  if (!is_absent(root, "pre_tokenizer")) {
    read_pre_tokenizer(where + ": pre_tokenizer", root.at("pre_tokenizer"), 0, files);
  }
  check_decoder(where, root, files);
  return files;
}

namespace {

void read_merges_file(const std::filesystem::path& path, const TokenTable& table, BpeFiles& files) {
  const std::string text = io::read_text_file(path, kMaxTokenizerBytes);
  const std::string where = path.string();
  if (text.empty()) throw BadInput("{}: the file is empty, merges were expected", where);
  if (const size_t valid = valid_utf8_prefix(text); valid < text.size()) {
    throw BadInput("{}: merges are not valid UTF-8 at byte {}", where, valid);
  }
  std::unordered_set<uint64_t> seen;
  int64_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    const std::string here = fmt::format("{}:{}", where, ++line_number);
    begin = end + 1;
    if (line.starts_with("#version")) continue;
    if (line.empty() && text.find_first_not_of('\n', begin) == std::string::npos) break;
    std::string left, right;
    if (!split_merge(line, left, right)) {
      throw BadInput("{}: a merge must be two tokens with one space between, found {}", here, in_quotes(line, 60));
    }
    add_merge(here, left, right, table, seen, files.merges);
  }
}

// {"<|im_end|>": 402, ...}: special where the spelling says so; tokenizer_config.json may say more.
void read_added_tokens_file(const std::filesystem::path& path, TokenTable& table, std::unordered_set<std::string>& seen,
                            BpeFiles& files) {
  const std::string where = path.string();
  const Json root = io::read_json_file(path, {}, kMaxConfigBytes);
  check_object(where, "the file", root);
  for (const auto& [text, id] : root.items()) {
    table.add(where, text, id);
    if (seen.contains(text)) continue;
    add_unique(where, {.text = text, .id = table.id(text), .special = has_special_spelling(text)}, seen, files);
  }
}

void read_tokenizer_config(const std::filesystem::path& path, TokenTable& table, std::unordered_set<std::string>& seen,
                           BpeFiles& files) {
  const std::string where = path.string();
  const Json root = io::read_json_file(path, {.wide_integers = true}, kMaxConfigBytes);
  check_object(where, "the file", root);
  const std::string name = string_member(where, root, "tokenizer_class");
  if (name != "Qwen2Tokenizer" && name != "Qwen2TokenizerFast") {
    throw BadInput(
        "{}: tokenizer_class {} is not supported for vocab.json + merges.txt, expected "
        "Qwen2Tokenizer",
        where, in_quotes(name, 40));
  }
  files.nfc = true;
  files.byte_level = true;
  files.steps = {{.pattern = std::string(kQwen2Pattern)},
                 byte_level_step(bool_member(where, root, "add_prefix_space", false), false)};
  if (!is_absent(root, "added_tokens_decoder")) {
    const Json& added = root.at("added_tokens_decoder");
    check_object(where, "added_tokens_decoder", added);
    for (const auto& [key, entry] : added.items()) {
      const std::string here = fmt::format("{}: added_tokens_decoder {}", where, in_quotes(key, 40));
      uint64_t id = 0;
      const auto [stop, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || stop != key.data() + key.size()) {
        throw BadInput("{}: id must be an integer", here);
      }
      AddedToken token = read_added_token(here, entry);
      TokenTable::check_text(here, token.text);
      table.add(here, token.text, id);
      token.id = table.id(token.text);
      add_unique(here, std::move(token), seen, files);
    }
  }
}

}  // namespace

BpeFiles read_vocab_and_merges(const std::filesystem::path& folder) {
  const auto is_there = [&](const char* name) {
    std::error_code ignored;
    return std::filesystem::exists(folder / name, ignored);
  };
  BpeFiles files;
  TokenTable table;
  const std::string where = (folder / "vocab.json").string();
  const Json vocab = io::read_json_file(folder / "vocab.json", {}, kMaxTokenizerBytes);
  read_vocab(where, vocab, table);
  read_merges_file(folder / "merges.txt", table, files);
  std::unordered_set<std::string> seen;
  if (is_there("tokenizer_config.json")) {
    read_tokenizer_config(folder / "tokenizer_config.json", table, seen, files);
  } else {
    files.steps = {whitespace_split_step()};
    if (table.has("<unk>")) files.unknown_id = table.id("<unk>");
  }
  if (is_there("added_tokens.json")) {
    read_added_tokens_file(folder / "added_tokens.json", table, seen, files);
  }
  finish(where, table, vocab, files);
  return files;
}

}  // namespace unigrpo::data

#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer/pre_tokenizer.h"

namespace unigrpo::data {

/// A token that is cut out of a text before anything else happens to it.
struct AddedToken {
  std::string text;
  int64_t id = 0;
  bool special = false;     // left out by decode()
  bool normalized = false;  // matched after the normalizer instead of before
  bool strip_left = false;  // takes the white space around it along
  bool strip_right = false;
};

/// A BPE tokenizer as its files describe it, after all checks.
struct BpeFiles {
  struct Merge {
    int64_t left = 0, right = 0, merged = 0;  // ids; the place in the list is the rank
  };
  std::vector<std::string> tokens;   // [V] by id, added tokens included; none is empty
  std::vector<bool> is_model_token;  // [V]
  std::vector<Merge> merges;
  std::vector<AddedToken> added_tokens;
  std::optional<int64_t> unknown_id;  // for characters outside the vocabulary; without it they are dropped
  bool fuse_unknown = false;          // a run of unknown characters becomes one token
  bool ignore_merges = false;         // a word that is a token needs no merges
  bool nfc = false;
  std::vector<PreTokenizerStep> steps;
  bool byte_level = false;  // tokens are spelled in the byte-level alphabet
};

/// Reads a Hugging Face `tokenizer.json` of model type BPE. Supported: normalizer NFC or none;
/// pre-tokenizers Whitespace, WhitespaceSplit, ByteLevel, Split and Sequences of these; decoder
/// ByteLevel or none; merges as "a b" or ["a", "b"]. Anything else that would change the ids is
/// refused. Throws BadInput naming the file and the key or token.
BpeFiles read_tokenizer_json(const std::filesystem::path& path);

/// Reads a folder's vocab.json + merges.txt and, where there, tokenizer_config.json and
/// added_tokens.json. With tokenizer_class Qwen2Tokenizer: NFC, Qwen2's pattern, byte level;
/// without tokenizer_config.json: words between white space, characters as they are, "<unk>" for
/// unknown ones where the vocabulary has it. Throws BadInput naming the file and the token or line.
BpeFiles read_vocab_and_merges(const std::filesystem::path& folder);

}  // namespace unigrpo::data

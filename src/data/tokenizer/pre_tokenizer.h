#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace unigrpo::data {

/// One stage that cuts a text into words, as Hugging Face's pre_tokenizers are named.
struct PreTokenizerStep {
  enum class Keep { matches, gaps, both };  // which parts of the text become words
  std::string pattern;                      // empty: the text is not cut
  Keep keep = Keep::both;
  bool prefix_space = false;  // put a space before a text that has none, first of all
  bool to_bytes = false;      // spell the words in the byte-level alphabet, last of all
};

inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Steps of the names that files use.
PreTokenizerStep whitespace_step();        // words and runs of punctuation
PreTokenizerStep whitespace_split_step();  // whatever stands between white space
PreTokenizerStep byte_level_step(bool prefix_space, bool use_gpt2_pattern);

/// Cuts text into words by a list of steps. Patterns are Perl-style with Unicode classes (PCRE2);
/// `\s` means Unicode's White_Space, as in the tokenizers that these patterns come from.
class PreTokenizer {
 public:
  /// Throws BadInput "<where>: pre_tokenizer: ..." for a pattern that does not compile.
  PreTokenizer(const std::vector<PreTokenizerStep>& steps, std::string_view where);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;

  /// text is valid UTF-8. Throws BadInput where a pattern backtracks beyond all measure.
  std::vector<std::string> words(std::string_view text) const;

 private:
  struct Step;
  std::vector<std::unique_ptr<Step>> steps_;
  std::string where_;
};

/// The alphabet in which GPT-2's byte-level BPE spells bytes: printable ones as themselves, the
/// others as the characters from U+0100 on (GPT-2, encoder.py).
class ByteAlphabet {
 public:
  static const ByteAlphabet& get();
  std::string to_characters(std::string_view bytes) const;
  /// The reverse; a character outside the alphabet stays as it is.
  std::string to_bytes(std::string_view characters) const;

 private:
  ByteAlphabet();
  std::array<std::string, 256> character_of_byte_;
  std::unordered_map<std::string_view, char> byte_of_character_;
};

/// "<|...|>": how special tokens are spelled.
inline bool has_special_spelling(std::string_view text) {
  return text.size() > 4 && text.starts_with("<|") && text.ends_with("|>");
}

/// Unicode normalization form C. text is valid UTF-8. Throws RuntimeFailure when memory runs out.
std::string to_nfc(std::string_view text);

/// Length of the UTF-8 character that starts a valid text.
inline size_t character_bytes(std::string_view text) {
  const auto lead = static_cast<uint8_t>(text.front());
  return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

}  // namespace unigrpo::data

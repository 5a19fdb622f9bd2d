#include "data/tokenizer/pre_tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"
#include "base/text.h"
#include "data/pattern.h"

namespace unigrpo::data {
namespace {

constexpr size_t kMaxPatternBytes = 4096;
constexpr uint32_t kHeapLimitKib = 64u << 10;

// PCRE2's \s also holds U+180E, which left White_Space in Unicode 6.3.
std::string with_unicode_spaces(std::string_view pattern) {
  std::string result;
  for (size_t at = 0; at < pattern.size(); ++at) {
    if (pattern[at] != '\\' || at + 1 == pattern.size()) {
      result += pattern[at];
      continue;
    }
    const char escaped = pattern[++at];
    if (escaped == 's') {
      result += R"(\p{White_Space})";
    } else if (escaped == 'S') {
      result += R"(\P{White_Space})";
    } else {
      result += '\\';
      result += escaped;
    }
  }
  return result;
}

Pattern compiled(std::string_view pattern, std::string_view where) try {
  if (pattern.size() > kMaxPatternBytes) {
    throw BadInput("{}: pre_tokenizer: pattern of {} bytes is too long, the limit is {}", where, pattern.size(),
                   kMaxPatternBytes);
  }
  return Pattern(with_unicode_spaces(pattern), {.unicode_classes = true, .max_heap_kib = kHeapLimitKib});
} catch (const Pattern::Error& error) {
  throw BadInput("{}: pre_tokenizer: pattern {}: {}", where, in_quotes(pattern), error.what());
}

/// Calls found(begin, end) for each match that is not empty, from left to right.
template <typename Found>
void each_match(const Pattern& pattern, std::string_view text, const Found& found) {
  for (size_t at = 0; at < text.size();) {
    const auto match = pattern.search(text, at);
    if (!match) return;
    // \K in a lookaround may put a match's begin behind its end, or before where the search began.
    if (match->begin < at || match->end <= match->begin) {
      at = std::max(at, match->end);
      if (at < text.size()) at += character_bytes(text.substr(at));
      continue;
    }
    found(match->begin, match->end);
    at = match->end;
  }
}

}  // namespace

PreTokenizerStep whitespace_step() {
  // \w as Rust's regex has it.
  return {.pattern = R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|)"
                     R"([^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\s]+)",
          .keep = PreTokenizerStep::Keep::matches};
}

PreTokenizerStep whitespace_split_step() { return {.pattern = R"(\S+)", .keep = PreTokenizerStep::Keep::matches}; }

PreTokenizerStep byte_level_step(bool prefix_space, bool use_gpt2_pattern) {
  return {.pattern = std::string(use_gpt2_pattern ? kGpt2Pattern : ""),
          .keep = PreTokenizerStep::Keep::both,
          .prefix_space = prefix_space,
          .to_bytes = true};
}

struct PreTokenizer::Step {
  PreTokenizerStep config;
  std::optional<Pattern> pattern;

  void cut(std::string word, std::vector<std::string>& words) const {
    const auto add = [&](std::string_view part) {
      if (part.empty()) return;
      words.push_back(config.to_bytes ? ByteAlphabet::get().to_characters(part) : std::string(part));
    };
    if (config.prefix_space && !word.starts_with(' ')) word.insert(word.begin(), ' ');
    if (!pattern) return add(word);
    using Keep = PreTokenizerStep::Keep;
    const std::string_view text = word;
    size_t done = 0;
    each_match(*pattern, text, [&](size_t begin, size_t end) {
      if (config.keep != Keep::matches) add(text.substr(done, begin - done));
      if (config.keep != Keep::gaps) add(text.substr(begin, end - begin));
      done = end;
    });
    if (config.keep != Keep::matches) add(text.substr(done));
  }
};

PreTokenizer::PreTokenizer(const std::vector<PreTokenizerStep>& steps, std::string_view where) : where_(where) {
  for (const PreTokenizerStep& config : steps) {
    auto step = std::make_unique<Step>(Step{.config = config, .pattern = {}});
    if (!config.pattern.empty()) step->pattern.emplace(compiled(config.pattern, where));
    steps_.push_back(std::move(step));
  }
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

std::vector<std::string> PreTokenizer::words(std::string_view text) const try {
  std::vector<std::string> words;
  if (!text.empty()) words.emplace_back(text);
  for (const auto& step : steps_) {
    std::vector<std::string> cut;
    for (const std::string& word : words) step->cut(word, cut);
    words = std::move(cut);
  }
  return words;
} catch (const Pattern::Error& error) {
  throw BadInput("{}: pre_tokenizer: pattern gave up on a text: {}", where_, error.what());
}

ByteAlphabet::ByteAlphabet() {
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
    const uint32_t code = printable ? byte : next++;
    std::string& character = character_of_byte_[byte];
    if (code < 0x80) {
      character = static_cast<char>(code);
    } else {
      character = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    }
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    byte_of_character_[character_of_byte_[byte]] = static_cast<char>(byte);
  }
}

const ByteAlphabet& ByteAlphabet::get() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

std::string ByteAlphabet::to_characters(std::string_view bytes) const {
  std::string text;
  for (const char byte : bytes) text += character_of_byte_[static_cast<uint8_t>(byte)];
  return text;
}

std::string ByteAlphabet::to_bytes(std::string_view characters) const {
  std::string bytes;
  while (!characters.empty()) {
    const std::string_view character = characters.substr(0, character_bytes(characters));
    const auto byte = byte_of_character_.find(character);
    if (byte != byte_of_character_.end()) {
      bytes += byte->second;
    } else {
      bytes += character;
    }
    characters.remove_prefix(character.size());
  }
  return bytes;
}

std::string to_nfc(std::string_view text) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; })) {
    return std::string(text);
  }
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &result, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (size < 0) throw RuntimeFailure("cannot normalize text to NFC: {}", utf8proc_errmsg(size));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  return std::string(reinterpret_cast<const char*>(result), static_cast<size_t>(size));
}

}  // namespace unigrpo::data

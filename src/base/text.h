#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unigrpo {

/// Levenshtein distance in bytes.
size_t edit_distance(std::string_view a, std::string_view b);
/// The candidate with the smallest edit distance, empty where none is within a third of the word's
/// length (at least 2). The first of equals wins.
std::string nearest(std::string_view word, std::span<const std::string> candidates);
std::string join(std::span<const std::string> parts, std::string_view separator);
std::string human_bytes(uint64_t bytes);    // "1.5 GiB"
std::string human_seconds(double seconds);  // "1 h 02 min", "3 min 05 s", "4.2 s"
/// Shell-style pattern with * and ? over the whole text.
bool matches_pattern(std::string_view text, std::string_view pattern);
/// Strict UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_valid_utf8(std::string_view text);
/// How many leading bytes are whole, valid UTF-8 characters; text.size() where all are.
size_t valid_utf8_prefix(std::string_view text);
/// The text in single quotes for an error line: control characters and invalid UTF-8 as \xNN, cut
/// after about `max_bytes` with "..." so that a hostile name neither breaks the line nor fills it.
std::string in_quotes(std::string_view text, size_t max_bytes = 80);
/// Lower-case hexadecimal SHA-256.
std::string sha256_hex(std::string_view bytes);

}  // namespace unigrpo

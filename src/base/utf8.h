#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace unigrpo {

/// Text from outside made valid UTF-8: each ill-formed sequence becomes one U+FFFD (its longest beginning of a
/// character, or a byte: "substitution of maximal subparts", Unicode 3.9, as Python's errors = "replace" does). Cut at
/// the end of a character after at most `max_bytes`.
std::string valid_utf8(std::string_view text, size_t max_bytes = std::string::npos);

/// A value for a message, without what may be a password in a URL: all between "://" and the last '@' becomes
/// "[hidden]"; without a scheme, the word before that '@' where it holds a colon.
std::string hide_password(std::string_view text);

}  // namespace unigrpo

#pragma once

// The library exports this switch but installs no header for it.
namespace sentencepiece::logging {
void SetMinLogLevel(int level);
}

namespace unigrpo::data {

/// Keeps the library's own lines off stderr: errors come back as a status, and are said once, by
/// us.
inline void silence_sentencepiece() {
  constexpr int kFatalOnly = 3;
  sentencepiece::logging::SetMinLogLevel(kFatalOnly);
}

}  // namespace unigrpo::data

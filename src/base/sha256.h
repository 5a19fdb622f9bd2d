#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/signals.h"

struct evp_md_ctx_st;  // OpenSSL's

namespace unigrpo {

/// SHA-256 (FIPS 180-4) of bytes that arrive piece by piece, by OpenSSL.
class Sha256 {
 public:
  Sha256();
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text.data(), text.size()))); }
  /// Lower-case hexadecimal digest of everything so far; call once, at the end.
  std::string hex();

 private:
  std::unique_ptr<evp_md_ctx_st, void (*)(evp_md_ctx_st*)> context_;
};

/// Hands a file's bytes on, some at a time. Throws BadInput where it cannot be read.
void for_each_block(const std::filesystem::path& path, const std::function<void(std::string_view bytes)>& take);

/// Lower-case hexadecimal SHA-256 of a file. Throws BadInput where it cannot be read, and Interrupted where `stop` came
/// meanwhile: a second gives some 1.5 GB.
std::string sha256_of_file(const std::filesystem::path& path, StopToken stop = {});

}  // namespace unigrpo

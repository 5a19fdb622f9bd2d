#include "base/sha256.h"

#include <fmt/ranges.h>
#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "base/paths.h"

namespace unigrpo {
namespace {

void require(int outcome) {
  if (outcome != 1) throw RuntimeFailure("OpenSSL cannot compute SHA-256");
}

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
  require(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr));
}

void Sha256::update(std::span<const std::byte> bytes) {
  require(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()));
}

std::string Sha256::hex() {
  std::array<unsigned char, 32> digest;
  require(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr));
  return fmt::format("{:02x}", fmt::join(digest, ""));
}

void for_each_block(const std::filesystem::path& path, const std::function<void(std::string_view bytes)>& take) {
  // Of files alone: nobody may ever write into a FIFO.
  std::error_code error;
  const auto type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::not_found) {
    throw BadInput("{}: cannot open: No such file or directory{}", path.string(), seen_from(path));
  }
  std::ifstream file;
  if (type == std::filesystem::file_type::regular) file.open(path, std::ios::binary);
  if (!file.is_open()) throw BadInput("{}: cannot be read", path.string());
  std::vector<char> block(size_t{1} << 20);
  do {
    file.read(block.data(), static_cast<std::streamsize>(block.size()));
    take(std::string_view(block.data(), static_cast<size_t>(file.gcount())));
  } while (file);
  if (file.bad()) throw BadInput("{}: cannot be read to its end", path.string());
}

std::string sha256_of_file(const std::filesystem::path& path, StopToken stop) {
  Sha256 digest;
  for_each_block(path, [&](std::string_view bytes) {
    stop.throw_if_requested();
    digest.update(bytes);
  });
  return digest.hex();
}

}  // namespace unigrpo

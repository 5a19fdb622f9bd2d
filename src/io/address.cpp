#include "io/address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>

namespace unigrpo::io {
namespace {

using V6 = std::array<uint8_t, 16>;

bool starts_with(const V6& address, std::initializer_list<uint8_t> bytes) {
  return std::equal(bytes.begin(), bytes.end(), address.begin());
}

uint32_t number_at(const V6& address, size_t at) {
  return uint32_t{address[at]} << 24 | uint32_t{address[at + 1]} << 16 | uint32_t{address[at + 2]} << 8 |
         uint32_t{address[at + 3]};
}

/// The IPv4 address that the system itself takes an IPv6 address for (::ffff:a.b.c.d).
std::optional<uint32_t> mapped_v4(const V6& address) {
  if (!starts_with(address, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF})) return std::nullopt;
  return number_at(address, 12);
}

/// The IPv4 address that a gateway makes of one: NAT64 (64:ff9b::/96) and 6to4 (2002::/16).
std::optional<uint32_t> translated_v4(const V6& address) {
  if (starts_with(address, {0, 0x64, 0xFF, 0x9B, 0, 0, 0, 0, 0, 0, 0, 0})) return number_at(address, 12);
  if (starts_with(address, {0x20, 0x02})) return number_at(address, 2);
  return std::nullopt;
}

bool is_loopback(uint32_t v4) { return v4 >> 24 == 127; }

bool is_loopback(const V6& address) {
  static constexpr V6 kLoopback = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  return address == kLoopback;
}

// Most clouds keep their metadata at a link-local address; these have others.
constexpr uint32_t kAlibaba = 0x646464C8;                                             // 100.100.100.200
constexpr uint32_t kAzure = 0xA83F8110;                                               // 168.63.129.16
constexpr uint32_t kOracle = 0xC00000C0;                                              // 192.0.0.192
constexpr V6 kAws = {0xFD, 0, 0x0E, 0xC2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54};  // fd00:ec2::254

bool is_forbidden(uint32_t v4) {
  const bool unspecified = v4 >> 24 == 0, link_local = v4 >> 16 == 0xA9FE, multicast_or_reserved = v4 >> 28 >= 0xE;
  return unspecified || link_local || multicast_or_reserved || v4 == kAlibaba || v4 == kAzure || v4 == kOracle;
}

bool is_forbidden(const V6& address) {
  const bool multicast = address[0] == 0xFF;
  const bool link_local = address[0] == 0xFE && (address[1] & 0xC0) == 0x80;
  // :: and the IPv4 addresses that were once written as ::a.b.c.d.
  const bool unspecified = starts_with(address, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) && !is_loopback(address);
  return multicast || link_local || unspecified || address == kAws;
}

}  // namespace

std::string why_refused(const sockaddr& address, bool loopback_only) {
  const bool is_v4 = address.sa_family == AF_INET;
  if (!is_v4 && address.sa_family != AF_INET6) return "not an internet address";
  const void* bytes = is_v4 ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in&>(address).sin_addr)
                            : static_cast<const void*>(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
  V6 v6{};
  std::memcpy(v6.data(), bytes, is_v4 ? 4 : 16);
  const std::optional<uint32_t> v4 = is_v4 ? number_at(v6, 0) : mapped_v4(v6);
  const std::optional<uint32_t> gateway = is_v4 ? std::nullopt : translated_v4(v6);

  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(address.sa_family, bytes, text.data(), text.size());
  if ((v4 ? is_forbidden(*v4) : is_forbidden(v6)) || (gateway && is_forbidden(*gateway))) {
    return fmt::format("{} is a link-local, metadata, multicast or unspecified address", text.data());
  }
  if (loopback_only && !(v4 ? is_loopback(*v4) : is_loopback(v6))) {
    return fmt::format("{} is another machine, and plain http:// goes there only with allow_plain_http", text.data());
  }
  return "";
}

}  // namespace unigrpo::io

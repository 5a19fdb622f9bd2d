#include "io/address.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace unigrpo::io {
namespace {

std::string refusal(const std::string& text, bool loopback_only) {
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  if (inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1) {
    return why_refused(reinterpret_cast<const sockaddr&>(v4), loopback_only);
  }
  sockaddr_in6 v6{};
  v6.sin6_family = AF_INET6;
  if (inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr) != 1) return text + " is no address";
  return why_refused(reinterpret_cast<const sockaddr&>(v6), loopback_only);
}

TEST(WhyRefused, NoJudgeHasThese) {
  for (const std::string address :
       {"169.254.169.254", "169.254.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "100.100.100.200",
        "168.63.129.16", "192.0.0.192", "::", "fe80::1", "febf::1", "ff02::1", "fd00:ec2::254",
        "::ffff:169.254.169.254", "::ffff:0.0.0.0", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::169.254.169.254"}) {
    for (const bool loopback_only : {false, true}) {
      EXPECT_EQ(refusal(address, loopback_only),
                address + " is a link-local, metadata, multicast or unspecified address");
    }
  }
}

TEST(WhyRefused, OtherMachinesAreFineUnlessItIsPlainHttp) {
  for (const std::string address : {"10.0.0.1", "192.168.1.1", "8.8.8.8", "126.255.255.255", "128.0.0.1", "2001:db8::1",
                                    "fd00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"}) {
    EXPECT_EQ(refusal(address, false), "");
    EXPECT_EQ(refusal(address, true),
              address + " is another machine, and plain http:// goes there only with allow_plain_http");
  }
}

TEST(WhyRefused, ThisMachineIsFine) {
  for (const char* address : {"127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"}) {
    EXPECT_EQ(refusal(address, true), "");
    EXPECT_EQ(refusal(address, false), "");
  }
}

TEST(WhyRefused, OnlyTheInternetIsReached) {
  sockaddr local{};
  local.sa_family = AF_UNIX;
  EXPECT_EQ(why_refused(local, false), "not an internet address");
}

}  // namespace
}  // namespace unigrpo::io

#pragma once

#include <string>

struct sockaddr;

namespace unigrpo::io {

/// Why no request may go to an address; empty where one may. Refused are link-local, multicast, reserved and
/// unspecified addresses and those of the clouds' metadata services, also where IPv6 maps or translates to them, and
/// with `loopback_only` every address but this machine's.
std::string why_refused(const sockaddr& address, bool loopback_only);

}  // namespace unigrpo::io

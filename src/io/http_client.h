#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/signals.h"

namespace unigrpo::io {

inline constexpr size_t kMaxHttpBody = size_t{1} << 20;     // of an answer
inline constexpr size_t kMaxHttpHeader = size_t{16} << 10;  // status line and all fields

struct HttpOptions {
  std::string url;               // http:// or https://, without user name and password
  std::string key;               // secret, sent as "Authorization: Bearer <key>"; empty: none
  std::string ca_file;           // PEM file of the authorities to trust; empty: the system's
  double timeout_s = 60;         // of one request: all its tries and the waits between them
  double connect_timeout_s = 5;  // of one try
  int max_tries = 3;
  int max_concurrent = 8;         // requests on their way
  bool allow_plain_http = false;  // http:// to other machines than this one
  bool use_proxy = false;         // the proxies that the environment names
  StopToken stop = {};            // asked while requests are under way
};

/// What came of one request.
struct HttpReply {
  std::string body;     // of an answer with status 2xx; "[key]" stands where it holds the key
  std::string failure;  // empty where there is one, else why not; never holds the key
};

/// POSTs JSON to one address, many requests at once. One thread at a time; connections stay open between calls.
///
/// An answer ends at kMaxHttpBody and kMaxHttpHeader. Status 429 and 5xx and failures of the connection are tried
/// again after 0.5 s, 1 s, 2 s, ... less a random half, or when the answer's Retry-After says, as long as that is
/// before the deadline. Redirects are not followed, compressed answers not unpacked, certificates always checked.
/// Link-local, multicast, unspecified and cloud-metadata addresses are refused, whatever name led there, and so is
/// plain http:// to an address beyond loopback. Where max(3, max_concurrent) requests in a row ended without an
/// answer, no other is sent until `new_step`. Being asked to stop ends all of them within 0.1 s.
class HttpClient {
 public:
  /// Throws BadInput for a URL, key or ca_file that cannot be used.
  explicit HttpClient(HttpOptions options);
  ~HttpClient();
  HttpClient(HttpClient&&) noexcept;

  /// One reply a request, in order. body_of(i) makes the i-th request's body when its turn comes.
  std::vector<HttpReply> post(size_t count, const std::function<std::string(size_t)>& body_of);

  /// Why nobody is there to be asked; empty where somebody is: a HEAD request, without key, has an answer, whatever its
  /// status but 502, 503 and 504, which a gateway gives for a service that is down. Tried like any request.
  std::string probe();

  /// From here on requests are sent again, where too many had no answer.
  void new_step();

  /// The text with "[key]" wherever it holds the key, for what was unescaped out of an answer.
  std::string without_key(std::string text) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace unigrpo::io

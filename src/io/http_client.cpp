#include "io/http_client.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <list>
#include <random>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "base/utf8.h"
#include "io/address.h"

namespace unigrpo::io {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr int kPollMs = 100;  // how soon a signal is noticed
constexpr double kFirstBackOffS = 0.5;
constexpr double kMaxBackOffS = 16;
constexpr int kMinUnanswered = 3;  // requests in a row before the rest is given up

template <auto function>
struct Free {
  template <typename T>
  void operator()(T* pointer) const {
    function(pointer);
  }
};
using Easy = std::unique_ptr<CURL, Free<curl_easy_cleanup>>;
using Multi = std::unique_ptr<CURLM, Free<curl_multi_cleanup>>;
using Headers = std::unique_ptr<curl_slist, Free<curl_slist_free_all>>;

void start_library() {
  static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (code != CURLE_OK) throw RuntimeFailure("libcurl does not start: {}", curl_easy_strerror(code));
}

template <typename Value>
void set(CURL* easy, CURLoption option, Value value) {
  const CURLcode code = curl_easy_setopt(easy, option, value);
  if (code != CURLE_OK) {
    throw RuntimeFailure("libcurl refuses option {}: {}", static_cast<int>(option), curl_easy_strerror(code));
  }
}

void check(CURLMcode code) {
  if (code != CURLM_OK) throw RuntimeFailure("libcurl failed: {}", curl_multi_strerror(code));
}

/// Throws BadInput unless the URL is one of ours. Returns whether it is plain http://.
bool check_url(const std::string& url) {
  const std::unique_ptr<CURLU, Free<curl_url_cleanup>> parsed(curl_url());
  if (!parsed) throw RuntimeFailure("out of memory for a URL");
  const auto part = [&](CURLUPart which) {
    char* text = nullptr;
    curl_url_get(parsed.get(), which, &text, 0);
    const std::unique_ptr<char, Free<curl_free>> owner(text);
    return std::string(text == nullptr ? "" : text);
  };
  if (const CURLUcode code = curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), CURLU_NON_SUPPORT_SCHEME)) {
    throw BadInput("URL {}: {}", in_quotes(hide_password(url)), curl_url_strerror(code));
  }
  const std::string scheme = part(CURLUPART_SCHEME);
  if (scheme != "http" && scheme != "https") {
    throw BadInput("URL {}: expected http:// or https://", in_quotes(hide_password(url)));
  }
  if (!part(CURLUPART_USER).empty() || !part(CURLUPART_PASSWORD).empty()) {
    throw BadInput("URL: expected one without user name and password");  // not shown: it is a secret
  }
  return scheme == "http";
}

// ---- One request on its way

struct Transfer {
  Easy easy;
  size_t index = 0;
  std::string body;
  Clock::time_point deadline;
  Clock::time_point wake;  // of the next try, while not active
  bool active = false;
  int num_tries = 0;
  bool loopback_only = false;
  // Of the try under way:
  std::string received;
  size_t header_bytes = 0;
  std::string refusal;  // why it was cut short from our side
  std::array<char, CURL_ERROR_SIZE> error{};
};

size_t on_body(char* data, size_t, size_t size, void* who) {
  auto& transfer = *static_cast<Transfer*>(who);
  if (transfer.received.size() + size > kMaxHttpBody) {
    transfer.refusal = fmt::format("the answer is longer than {}", human_bytes(kMaxHttpBody));
    return CURL_WRITEFUNC_ERROR;
  }
  transfer.received.append(data, size);
  return size;
}

size_t on_header(char*, size_t, size_t size, void* who) {
  auto& transfer = *static_cast<Transfer*>(who);
  transfer.header_bytes += size;
  if (transfer.header_bytes <= kMaxHttpHeader) return size;
  transfer.refusal = fmt::format("the answer's header is longer than {}", human_bytes(kMaxHttpHeader));
  return CURL_WRITEFUNC_ERROR;
}

curl_socket_t on_open_socket(void* who, curlsocktype, curl_sockaddr* address) {
  auto& transfer = *static_cast<Transfer*>(who);
  if (std::string refusal = why_refused(address->addr, transfer.loopback_only); !refusal.empty()) {
    transfer.refusal = std::move(refusal);
    return CURL_SOCKET_BAD;
  }
  return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

std::string hide(std::string text, const std::string& key) {
  static constexpr std::string_view kHidden = "[key]";
  if (key.empty()) return text;
  for (size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + kHidden.size())) {
    text.replace(at, key.size(), kHidden);
  }
  return text;
}

/// How a try ended.
struct Outcome {
  std::string failure;   // empty: with an answer
  bool answered = true;  // by the judge, be it with a refusal
  bool try_again = false;
  double retry_after_s = 0;
};

bool is_lost_connection(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
      return true;
    default:
      return false;
  }
}

enum class Purpose { post, probe };

Outcome outcome_of_status(const Transfer& transfer, const std::string& key, Purpose purpose) {
  long status = 0;
  curl_easy_getinfo(transfer.easy.get(), CURLINFO_RESPONSE_CODE, &status);
  if (status >= 200 && status < 300) return {};
  if (purpose == Purpose::probe && !(status >= 502 && status <= 504)) return {};
  const bool busy = status == 429 || status >= 500;
  Outcome outcome{.failure = fmt::format("status {}", status), .answered = !busy, .try_again = busy};
  if (status >= 300 && status < 400) outcome.failure += ", and redirects are not followed";
  // The key goes before the text is cut, or a part of it could stay.
  if (!transfer.received.empty()) outcome.failure += ": " + in_quotes(hide(transfer.received, key), 200);
  curl_off_t seconds = 0;
  curl_easy_getinfo(transfer.easy.get(), CURLINFO_RETRY_AFTER, &seconds);
  outcome.retry_after_s = static_cast<double>(std::max<curl_off_t>(seconds, 0));
  return outcome;
}

Outcome outcome_of(const Transfer& transfer, CURLcode code, const HttpOptions& options, Purpose purpose) {
  if (code == CURLE_OK) return outcome_of_status(transfer, options.key, purpose);
  if (!transfer.refusal.empty()) return {.failure = transfer.refusal};
  if (code == CURLE_OPERATION_TIMEDOUT) {
    const bool late = Clock::now() + std::chrono::milliseconds(20) >= transfer.deadline;
    return {.failure = late ? fmt::format("no whole answer within {} s", options.timeout_s)
                            : fmt::format("no connection within {} s", options.connect_timeout_s),
            .answered = false,
            .try_again = !late};
  }
  const char* detail = transfer.error[0] != '\0' ? transfer.error.data() : curl_easy_strerror(code);
  const bool lost = is_lost_connection(code);
  return {.failure = in_quotes(detail, 200), .answered = !lost, .try_again = lost};
}

/// What a client keeps between calls.
struct Session {
  HttpOptions options;
  bool loopback_only = false;
  Headers headers;
  Multi multi;
  int num_unanswered = 0;  // in a row, in this step
  std::minstd_rand random{std::random_device{}()};

  double back_off_s(int num_tries) {
    const double wait = std::min(std::ldexp(kFirstBackOffS, num_tries - 1), kMaxBackOffS);
    return wait * std::uniform_real_distribution(0.5, 1.0)(random);
  }
};

/// The requests of one call: starts them, watches them, gives each its reply.
class Round {
 public:
  Round(Session& session, Purpose purpose, size_t count, const std::function<std::string(size_t)>& body_of)
      : session_(session),
        purpose_(purpose),
        options_(session.options),
        multi_(session.multi.get()),
        body_of_(body_of),
        replies_(count) {}

  ~Round() {
    for (Transfer& transfer : transfers_) stop(transfer);
  }
  Round(const Round&) = delete;

  std::vector<HttpReply> run() {
    while (next_ < replies_.size() || !transfers_.empty()) {
      if (options_.stop.requested()) {
        give_up(fmt::format("not judged: {}", options_.stop.signal()));
        break;
      }
      if (session_.num_unanswered >= max_unanswered()) leave_out_the_rest();
      start_what_is_due();
      int num_running = 0;
      check(curl_multi_perform(multi_, &num_running));
      collect();
      if (!transfers_.empty() && !has_room()) check(curl_multi_poll(multi_, nullptr, 0, wait_ms(), nullptr));
    }
    return std::move(replies_);
  }

 private:
  int max_unanswered() const { return std::max(kMinUnanswered, options_.max_concurrent); }

  /// Those under way count as unanswered until they are: a silent judge gets no more requests than it takes to know it.
  bool has_room() const {
    const auto under_way = static_cast<int>(transfers_.size());
    return next_ < replies_.size() && under_way < options_.max_concurrent &&
           session_.num_unanswered + under_way < max_unanswered();
  }

  void start_what_is_due() {
    for (Transfer& transfer : transfers_) {
      if (!transfer.active && transfer.wake <= Clock::now()) begin_try(transfer);
    }
    for (int started = 0; has_room() && started < 16; ++started) {  // making bodies takes time from those under way
      Transfer& transfer = transfers_.emplace_back();
      transfer.index = next_++;
      transfer.loopback_only = session_.loopback_only;
      transfer.body = body_of_(transfer.index);
      prepare(transfer);
      transfer.deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(Seconds(options_.timeout_s));
      begin_try(transfer);
    }
  }

  void prepare(Transfer& transfer) const {
    transfer.easy.reset(curl_easy_init());
    CURL* easy = transfer.easy.get();
    if (easy == nullptr) throw RuntimeFailure("libcurl gives no handle");
    set(easy, CURLOPT_PRIVATE, &transfer);
    set(easy, CURLOPT_URL, options_.url.c_str());
    if (purpose_ == Purpose::probe) {
      set(easy, CURLOPT_NOBODY, 1L);
    } else {
      set(easy, CURLOPT_HTTPHEADER, session_.headers.get());
      set(easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(transfer.body.size()));
      set(easy, CURLOPT_POSTFIELDS, transfer.body.data());
    }
    set(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    set(easy, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    set(easy, CURLOPT_FOLLOWLOCATION, 0L);
    set(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    set(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    set(easy, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
    if (!options_.ca_file.empty()) {
      set(easy, CURLOPT_CAINFO, options_.ca_file.c_str());
      set(easy, CURLOPT_CAPATH, static_cast<const char*>(nullptr));
    }
    if (!options_.use_proxy) set(easy, CURLOPT_PROXY, "");
    set(easy, CURLOPT_OPENSOCKETFUNCTION, &on_open_socket);
    set(easy, CURLOPT_OPENSOCKETDATA, &transfer);
    set(easy, CURLOPT_WRITEFUNCTION, &on_body);
    set(easy, CURLOPT_WRITEDATA, &transfer);
    set(easy, CURLOPT_HEADERFUNCTION, &on_header);
    set(easy, CURLOPT_HEADERDATA, &transfer);
    set(easy, CURLOPT_ERRORBUFFER, transfer.error.data());
    set(easy, CURLOPT_CONNECTTIMEOUT_MS, std::max(1L, static_cast<long>(options_.connect_timeout_s * 1000)));
    set(easy, CURLOPT_NOSIGNAL, 1L);
    set(easy, CURLOPT_QUICK_EXIT, 1L);  // a name server that does not answer holds nobody up
  }

  void begin_try(Transfer& transfer) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(transfer.deadline - Clock::now()).count();
    set(transfer.easy.get(), CURLOPT_TIMEOUT_MS, std::max(1L, static_cast<long>(left)));
    transfer.received.clear();
    transfer.header_bytes = 0;
    transfer.refusal.clear();
    transfer.error[0] = '\0';
    ++transfer.num_tries;
    check(curl_multi_add_handle(multi_, transfer.easy.get()));
    transfer.active = true;
  }

  void stop(Transfer& transfer) const {
    if (transfer.active) curl_multi_remove_handle(multi_, transfer.easy.get());
    transfer.active = false;
  }

  void collect() {
    int num_left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_, &num_left)) {
      if (message->msg != CURLMSG_DONE) continue;
      const CURLcode code = message->data.result;  // the message is gone with the handle
      Transfer* transfer = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
      stop(*transfer);
      end_try(*transfer, outcome_of(*transfer, code, options_, purpose_));
    }
  }

  void end_try(Transfer& transfer, Outcome outcome) {
    if (outcome.try_again && transfer.num_tries < options_.max_tries) {
      const double wait = std::max(session_.back_off_s(transfer.num_tries), outcome.retry_after_s);
      if (Seconds(wait) < transfer.deadline - Clock::now()) {
        transfer.wake = Clock::now() + std::chrono::duration_cast<Clock::duration>(Seconds(wait));
        return;
      }
      outcome.failure += fmt::format("; the next try would come in {:.1f} s, too late", wait);
    }
    if (!outcome.failure.empty() && transfer.num_tries > 1) {
      outcome.failure += fmt::format(" ({} tries)", transfer.num_tries);
    }
    session_.num_unanswered = outcome.answered ? 0 : session_.num_unanswered + 1;
    HttpReply& reply = replies_[transfer.index];
    reply.failure = std::move(outcome.failure);
    if (reply.failure.empty()) reply.body = std::move(transfer.received);
    transfers_.remove_if([&](const Transfer& other) { return &other == &transfer; });
  }

  int wait_ms() const {
    auto soonest = Clock::now() + std::chrono::milliseconds(kPollMs);
    for (const Transfer& transfer : transfers_) {
      if (!transfer.active) soonest = std::min(soonest, transfer.wake);
    }
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(soonest - Clock::now()).count();
    return static_cast<int>(std::max<int64_t>(wait, 0));
  }

  void leave_out_the_rest() {
    for (; next_ < replies_.size(); ++next_) {
      replies_[next_].failure = fmt::format("not asked: the last {} requests had no answer", session_.num_unanswered);
    }
  }

  void give_up(const std::string& why) {
    for (const Transfer& transfer : transfers_) replies_[transfer.index].failure = why;
    for (; next_ < replies_.size(); ++next_) replies_[next_].failure = why;
  }

  Session& session_;
  const Purpose purpose_;
  const HttpOptions& options_;
  CURLM* multi_;
  const std::function<std::string(size_t)>& body_of_;
  std::vector<HttpReply> replies_;
  std::list<Transfer> transfers_;  // curl holds pointers into it
  size_t next_ = 0;                // of the requests not sent yet
};

Headers headers_of(const std::string& key) {
  Headers headers;
  const auto add = [&](const std::string& line) {
    curl_slist* longer = curl_slist_append(headers.get(), line.c_str());
    if (longer == nullptr) throw RuntimeFailure("out of memory for a header");
    (void)headers.release();
    headers.reset(longer);
  };
  add("Content-Type: application/json");
  add("Accept: application/json");
  add("User-Agent: unigrpo");
  add("Expect:");  // no pause before a long body
  if (!key.empty()) add("Authorization: Bearer " + key);
  return headers;
}

}  // namespace

struct HttpClient::Impl {
  Session session;
};

HttpClient::HttpClient(HttpOptions options) : impl_(std::make_unique<Impl>()) {
  start_library();
  Session& session = impl_->session;
  session.loopback_only = check_url(options.url) && !options.allow_plain_http;
  if (std::ranges::any_of(options.key, [](unsigned char c) { return c <= 0x20 || c >= 0x7F; })) {
    throw BadInput("the key holds blanks, line breaks or characters beyond ASCII");
  }
  // Such a key could not be told from a number that an answer holds.
  if (!options.key.empty() && options.key.find_first_not_of("0123456789+-.eE") == std::string::npos) {
    throw BadInput("the key looks like a number");
  }
  if (!options.ca_file.empty() && !std::filesystem::is_regular_file(options.ca_file)) {
    throw BadInput("{}: no such file, expected certificates (PEM)", options.ca_file);
  }
  session.headers = headers_of(options.key);
  session.multi.reset(curl_multi_init());
  if (!session.multi) throw RuntimeFailure("libcurl gives no handle");
  session.options = std::move(options);
}

HttpClient::~HttpClient() = default;
HttpClient::HttpClient(HttpClient&&) noexcept = default;

std::vector<HttpReply> HttpClient::post(size_t count, const std::function<std::string(size_t)>& body_of) {
  std::vector<HttpReply> replies = Round(impl_->session, Purpose::post, count, body_of).run();
  for (HttpReply& reply : replies) {
    reply.failure = without_key(std::move(reply.failure));
    reply.body = without_key(std::move(reply.body));
  }
  return replies;
}

std::string HttpClient::probe() {
  const auto no_body = [](size_t) { return std::string(); };
  std::string failure = Round(impl_->session, Purpose::probe, 1, no_body).run().front().failure;
  new_step();
  return without_key(std::move(failure));
}

void HttpClient::new_step() { impl_->session.num_unanswered = 0; }

std::string HttpClient::without_key(std::string text) const {
  return hide(std::move(text), impl_->session.options.key);
}

}  // namespace unigrpo::io

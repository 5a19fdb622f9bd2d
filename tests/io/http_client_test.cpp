#include "io/http_client.h"

#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/signals.h"
#include "io/json.h"
#include "support/server_process.h"
#include "support/temp_folder.h"

namespace unigrpo::io {
namespace {

using ::unigrpo::testing::ServerProcess;
using ::unigrpo::testing::TempFolder;

constexpr const char* kKey = "sk-secret-0123456789";
constexpr const char* kQuestion = R"({"samples": [{"id": "a", "prompt": "worth 0.25"}]})";

std::string local(const std::string& path) {
  static const ServerProcess server("tests/support/judge_server.py");
  return "http://127.0.0.1:" + server.line() + path;
}

HttpOptions options_of(const std::string& url, double timeout_s = 60) {
  return {.url = url, .key = kKey, .ca_file = "", .timeout_s = timeout_s};
}

HttpReply ask(HttpOptions options) {
  return HttpClient(std::move(options)).post(1, [](size_t) { return kQuestion; }).front();
}

std::string refusal(HttpOptions options) {
  try {
    const HttpClient client(std::move(options));
  } catch (const BadInput& error) {
    return error.what();
  }
  return "accepted";
}

/// What the server saw at a path.
nlohmann::json seen(const std::string& path) {
  const std::string file = std::string(::testing::TempDir()) + "/seen" + std::to_string(getpid());
  const std::string command =
      "python3 -c \"import sys, urllib.request; "
      "sys.stdout.write(urllib.request.urlopen(sys.argv[1]).read().decode())\" " +
      local(path) + " > " + file;
  if (std::system(command.c_str()) != 0) throw std::runtime_error("cannot ask the server");
  return read_json_file(file);
}

TEST(HttpClient, BringsAnswersInTheOrderOfTheRequests) {
  HttpClient client(options_of(local("/good")));
  const auto replies = client.post(
      20, [](size_t i) { return R"({"samples": [{"id": "a", "prompt": ")" + std::to_string(i) + R"("}]})"; });
  for (size_t i = 0; i < replies.size(); ++i) {
    ASSERT_EQ(replies[i].failure, "");
    EXPECT_EQ(parse_json(replies[i].body, "reply")["scores"][0]["score"], static_cast<double>(i));
  }
  EXPECT_TRUE(client.post(0, [](size_t) { return ""; }).empty());
  EXPECT_EQ(seen("/good")["authorization"], nlohmann::json({std::string("Bearer ") + kKey}));
}

TEST(HttpClient, KeepsToItsLimitOfRequestsAtOnce) {
  HttpOptions options = options_of(local("/good/0.2"));
  options.max_concurrent = 4;
  for (const auto& reply : HttpClient(options).post(12, [](size_t) { return kQuestion; })) EXPECT_EQ(reply.failure, "");
  EXPECT_EQ(seen("/good/0.2")["most_at_once"], 4);
}

TEST(HttpClient, KeepsTwoHundredRequestsOnTheirWay) {
  constexpr const char* kPath = "/good/3";
  HttpOptions options = options_of(local(kPath), 120);
  options.max_concurrent = 200;
  const Stopwatch watch;
  const auto replies = HttpClient(options).post(200, [](size_t) { return kQuestion; });
  const double seconds = watch.seconds();
  for (const auto& reply : replies) EXPECT_EQ(reply.failure, "");
  const auto log = seen(kPath);
  EXPECT_EQ(log["requests"], 200);
  EXPECT_GE(log["most_at_once"], 100);  // all of them, but for a server on a busy machine
  EXPECT_LT(seconds, 60);               // one by one: 600 s
  RecordProperty("seconds", std::to_string(seconds));
}

TEST(HttpClient, TriesAgainWhereThatMayHelp) {
  EXPECT_EQ(ask(options_of(local("/recovers"))).failure, "");
  EXPECT_EQ(seen("/recovers")["requests"], 2);
  EXPECT_EQ(ask(options_of(local("/always_500"))).failure, "status 500: 'out of order' (3 tries)");
  EXPECT_EQ(seen("/always_500")["requests"], 3);
  EXPECT_EQ(ask(options_of(local("/unauthorized"))).failure, R"(status 401: '{"error": "bad key: Bearer [key]"}')");
  EXPECT_EQ(seen("/unauthorized")["requests"], 1);
}

TEST(HttpClient, WaitsAsLongAsItIsAskedToWithinTheDeadline) {
  const Stopwatch watch;
  EXPECT_EQ(ask(options_of(local("/retry_after"))).failure, "");
  EXPECT_GE(watch.seconds(), 1.0);
  EXPECT_EQ(ask(options_of(local("/retry_never"))).failure,
            "status 429; the next try would come in 86400.0 s, too late");
}

TEST(HttpClient, LeavesTheRestOutWhenNobodyAnswers) {
  HttpOptions options = options_of(local("/never"), 1);
  options.max_concurrent = 2;
  const Stopwatch watch;
  const auto replies = HttpClient(options).post(50, [](size_t) { return kQuestion; });
  EXPECT_LT(watch.seconds(), 6);
  EXPECT_EQ(replies.front().failure, "no whole answer within 1 s");
  EXPECT_TRUE(replies.back().failure.starts_with("not asked: the last ")) << replies.back().failure;
}

TEST(HttpClient, AsksNobodyAnyMoreInTheStep) {
  HttpOptions options = options_of(local("/never/0/step"), 1);
  options.max_concurrent = 3;
  HttpClient client(options);
  for (int group = 0; group < 8; ++group) {
    for (const HttpReply& reply : client.post(3, [](size_t) { return kQuestion; })) EXPECT_NE(reply.failure, "");
  }
  EXPECT_EQ(seen("/never/0/step")["requests"], 3);
  client.new_step();
  client.post(3, [](size_t) { return kQuestion; });
  EXPECT_EQ(seen("/never/0/step")["requests"], 6);
}

TEST(HttpClient, FindsOutWhetherAnybodyIsThere) {
  EXPECT_EQ(HttpClient(options_of(local("/never"))).probe(), "");  // POST is another matter
  EXPECT_EQ(HttpClient(options_of(local("/good"))).probe(), "");
  EXPECT_EQ(seen("/good/probe")["requests"], 0);
  HttpOptions options = options_of("http://127.0.0.1:9/", 3);
  options.max_tries = 2;
  EXPECT_TRUE(HttpClient(options).probe().starts_with("'Failed to connect to 127.0.0.1 port 9"))
      << HttpClient(options).probe();
  options.url = local("/gateway");
  EXPECT_EQ(HttpClient(options).probe(), "status 502 (2 tries)");
  options.url = "http://169.254.169.254/";
  options.allow_plain_http = true;
  EXPECT_NE(HttpClient(options).probe().find("link-local"), std::string::npos);
}

TEST(HttpClient, RefusesAddressesThatNoJudgeHas) {
  const auto failure = [](const std::string& host) {
    HttpOptions options = options_of("http://" + host + ":9/", 10);
    options.allow_plain_http = true;
    return ask(options).failure;
  };
  for (const std::string host : {"169.254.169.254", "2852039166", "0.0.0.0", "[fe80::1]", "[::ffff:169.254.169.254]"}) {
    EXPECT_NE(failure(host).find("is a link-local, metadata, multicast or unspecified address"), std::string::npos)
        << host << ": " << failure(host);
  }
}

TEST(HttpClient, SendsPlainHttpToThisMachineAlone) {
  const std::string expected = "is another machine, and plain http:// goes there only with allow_plain_http";
  for (const std::string host : {"10.0.0.1", "[2001:db8::1]"}) {
    const std::string failure = ask(options_of("http://" + host + ":9/", 10)).failure;
    EXPECT_NE(failure.find(expected), std::string::npos) << host << ": " << failure;
  }
  for (const std::string host : {"127.0.0.1", "127.9.9.9", "localhost"}) {
    EXPECT_EQ(ask(options_of("http://" + host + ":1/", 0.2)).failure.find("another machine"), std::string::npos)
        << host;
  }
}

TEST(HttpClient, TakesNoProxyFromTheEnvironmentUnlessAsked) {
  setenv("http_proxy", "http://127.0.0.1:1", 1);
  HttpOptions options = options_of(local("/good"));
  EXPECT_EQ(ask(options).failure, "");
  options.use_proxy = true;
  options.max_tries = 1;
  EXPECT_NE(ask(options).failure, "");
  unsetenv("http_proxy");
}

TEST(HttpClient, RefusesWhatItCannotUse) {
  EXPECT_EQ(refusal(options_of("ftp://a/b")), "URL 'ftp://a/b': expected http:// or https://");
  EXPECT_EQ(refusal(options_of("file:///etc/passwd")), "URL 'file:///etc/passwd': expected http:// or https://");
  EXPECT_EQ(refusal(options_of("https://user:word@a/b")), "URL: expected one without user name and password");
  for (const char* url : {"ftp://user:word@a/b", "http://user:word@a:b/", "http://user:wo/rd@a/b", "user:word@a"}) {
    EXPECT_EQ(refusal(options_of(url)).find("wo"), std::string::npos) << refusal(options_of(url));
    EXPECT_NE(refusal(options_of(url)), "accepted") << url;
  }
  EXPECT_NE(refusal(options_of("")), "accepted");
  EXPECT_NE(refusal(options_of("https://")), "accepted");
  HttpOptions options = options_of("https://a/b");
  options.key = "a\r\nX-Evil: 1";
  EXPECT_EQ(refusal(options), "the key holds blanks, line breaks or characters beyond ASCII");
  options.key = "123456";
  EXPECT_EQ(refusal(options), "the key looks like a number");
  options = options_of("https://a/b");
  options.ca_file = "/no/such.pem";
  EXPECT_EQ(refusal(options), "/no/such.pem: no such file, expected certificates (PEM)");
}

TEST(HttpClient, ChecksCertificates) {
  const TempFolder folder;
  const auto make = [&](const std::string& name, const std::string& subject) {
    const std::string command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=" + subject +
                                " -addext subjectAltName=" + subject + " -keyout " +
                                (folder.path() / (name + ".key")).string() + " -out " +
                                (folder.path() / (name + ".pem")).string() + " 2> /dev/null";
    return std::system(command.c_str()) == 0;
  };
  ASSERT_TRUE(make("ours", "IP:127.0.0.1") && make("other", "DNS:elsewhere.example"));
  const auto file = [&](const std::string& name) { return (folder.path() / name).string(); };
  const ServerProcess ours("tests/support/judge_server.py", {"--tls", file("ours.pem"), file("ours.key")});
  const ServerProcess other("tests/support/judge_server.py", {"--tls", file("other.pem"), file("other.key")});
  HttpOptions options = options_of("https://127.0.0.1:" + ours.line() + "/good");
  EXPECT_NE(ask(options).failure.find("certificate"), std::string::npos);  // nobody vouches for it
  options.ca_file = file("ours.pem");
  EXPECT_EQ(ask(options).failure, "");
  options.ca_file = file("other.pem");
  EXPECT_NE(ask(options).failure.find("certificate"), std::string::npos);  // somebody else's
  options.url = "https://127.0.0.1:" + other.line() + "/good";
  EXPECT_NE(ask(options).failure.find("certificate"), std::string::npos);  // vouched for, but of another name
}

TEST(HttpClientDeathTest, EndsOnASignal) {
  local("/never");  // before the fork
  EXPECT_EXIT(
      {
        HttpOptions options = options_of(local("/never"));
        options.stop = signals::install();
        std::jthread sender([] {
          std::this_thread::sleep_for(std::chrono::milliseconds(300));
          std::raise(SIGTERM);
        });
        const Stopwatch watch;
        const auto replies = HttpClient(options).post(30, [](size_t) { return kQuestion; });
        const bool told =
            replies.front().failure == "not judged: SIGTERM" && replies.back().failure == "not judged: SIGTERM";
        std::_Exit(told && watch.seconds() < 5 ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace unigrpo::io

#include "parallel/watcher.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

namespace unigrpo::parallel {
namespace {

using namespace std::chrono_literals;

/// Watchers of `size` ranks in this process.
class Watchers {
 public:
  explicit Watchers(int64_t size, Watcher::Options options = {}) {
    const WatchSocket hub = listen_for_watchers(true);
    port = hub.port;
    for (int64_t rank = 0; rank < size; ++rank) {
      options.rank = rank;
      options.size = size;
      options.token = "secret";
      options.beat_s = 0.05;
      all.push_back(std::make_unique<Watcher>(options, rank == 0 ? hub : connect_to_watcher("127.0.0.1", hub.port)));
    }
  }
  std::string why(size_t rank, bool late = false, double patience_s = 10) {
    const auto verdict = all[rank]->why(late, patience_s);
    return verdict ? verdict->text : "none";
  }
  std::vector<std::unique_ptr<Watcher>> all;
  uint16_t port = 0;
};

TEST(Watcher, OneThatFailsIsQuotedToAll) {
  Watchers watchers(4);
  watchers.all[2]->failed("reward 'a': out of paper");
  EXPECT_EQ(watchers.why(2), "rank 2 failed: reward 'a': out of paper");
  watchers.all[1]->failed("a later one");
  for (const size_t rank : {0, 1, 3}) EXPECT_EQ(watchers.why(rank), "rank 2 failed: reward 'a': out of paper");
}

TEST(Watcher, TheFailureOfRankZeroIsQuotedToo) {
  Watchers watchers(3);
  watchers.all[0]->failed("disk full");
  for (const size_t rank : {1, 2}) EXPECT_EQ(watchers.why(rank), "rank 0 failed: disk full");
}

TEST(Watcher, ARankThatDiesIsNamed) {
  Watchers watchers(2);
  const int stranger = connect_to_watcher("127.0.0.1", watchers.port).fd;
  // A third rank by hand, which dies.
  const WatchSocket hub = listen_for_watchers(true);
  Watcher first({.rank = 0, .size = 2, .token = "t", .launcher = {}}, hub);
  const int second = connect_to_watcher("127.0.0.1", hub.port).fd;
  ASSERT_EQ(send(second, "hello t 1\nbeat 5\n", 17, 0), 17);
  std::this_thread::sleep_for(50ms);
  close(second);
  const auto verdict = first.why(false, 10);
  ASSERT_TRUE(verdict.has_value());
  EXPECT_EQ(verdict->kind, Verdict::Kind::died);
  EXPECT_EQ(verdict->text, "rank 1 is lost: its connection closed");
  close(stranger);
}

TEST(Watcher, ARankThatFallsSilentIsNamed) {
  const WatchSocket hub = listen_for_watchers(true);
  Watcher first({.rank = 0, .size = 2, .token = "t", .launcher = {}, .beat_s = 0.05, .silence_s = 0.3}, hub);
  const int second = connect_to_watcher("127.0.0.1", hub.port).fd;
  ASSERT_EQ(send(second, "hello t 1\n", 10, 0), 10);
  const auto verdict = first.why(false, 10);
  ASSERT_TRUE(verdict.has_value());
  EXPECT_EQ(verdict->kind, Verdict::Kind::silent);
  EXPECT_NE(verdict->text.find("rank 1 is lost: nothing heard of it for 0."), std::string::npos);
  close(second);
}

TEST(Watcher, ARankThatFallsBehindIsNamed) {
  Watchers watchers(3);
  watchers.all[0]->reached(8);
  watchers.all[1]->reached(8);
  watchers.all[2]->reached(7);
  std::this_thread::sleep_for(300ms);  // some beats
  EXPECT_EQ(watchers.why(1, true), "rank 2 is lost: rank 1 waited for it in call 8, it has come to call 7");
  EXPECT_EQ(watchers.why(0), watchers.why(1));
}

TEST(Watcher, RankZeroFallsBehindLikeTheOthers) {
  Watchers watchers(2);
  watchers.all[1]->reached(3);
  EXPECT_EQ(watchers.why(1, true), "rank 0 is lost: rank 1 waited for it in call 3, it has come to call 0");
}

TEST(Watcher, AGoodbyeIsNoLossUntilSomebodyMissesIt) {
  Watchers watchers(3);
  watchers.all[1].reset();
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(watchers.why(2, true, 0.2), "none");
  EXPECT_EQ(watchers.why(0), "rank 1 is lost: it has ended");
}

TEST(Watcher, StrangersAreTurnedAway) {
  Watchers watchers(2);
  std::vector<int> strangers;
  for (const std::string text :
       {"hello wrong 1\nfailed x\n", "GET / HTTP/1.0\r\n\r\n", "hello secret 7\n", "hello secret 0\n"}) {
    strangers.push_back(connect_to_watcher("127.0.0.1", watchers.port).fd);
    ASSERT_GT(send(strangers.back(), text.data(), text.size(), MSG_NOSIGNAL), 0);
  }
  for (const int fd : strangers) {
    char byte = 0;
    EXPECT_LE(recv(fd, &byte, 1, 0), 0);  // closed
    close(fd);
  }
  EXPECT_EQ(watchers.why(1, true, 0.2), "none");
}

TEST(Watcher, ARankThatDoesNotEndByItselfIsAbandoned) {
  std::atomic<int> reports = 0, abandoned = 0;
  Watchers watchers(3, {.launcher = {},
                        .grace_s = 0.1,
                        .report = [&](const Verdict&) { ++reports; },
                        .abandon = [&](const Verdict& verdict) { abandoned += verdict.rank == 1; }});
  watchers.all[2]->ends_by_itself();
  watchers.all[1]->failed("x");
  for (int i = 0; i < 500 && abandoned == 0; ++i) std::this_thread::sleep_for(10ms);
  std::this_thread::sleep_for(200ms);
  EXPECT_EQ(abandoned, 1);  // rank 0; the others end by themselves
  EXPECT_EQ(reports, 3);
}

}  // namespace
}  // namespace unigrpo::parallel

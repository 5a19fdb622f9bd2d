#include "parallel/meeting.h"

#include <gtest/gtest.h>

#include <csignal>
#include <thread>

#include "base/left_behind.h"
#include "parallel/transport.h"
#include "support/ranks.h"

namespace unigrpo::parallel {
namespace {

using test::run_threads;
using test::worlds;

/// Meets with terms of each rank.
std::vector<std::string> meet_with(std::vector<World> all, const std::function<Terms(int64_t)>& terms,
                                   double meeting_s = 30) {
  return run_threads(static_cast<int64_t>(all.size()), [&](int64_t place) {
    meet(all[static_cast<size_t>(place)], terms(place), {.deadlines = {.meeting_s = meeting_s}}, {});
  });
}

TEST(Meeting, OneRankMeetsNobody) {
  World world;
  world.launched = true;
  EXPECT_EQ(meet(world, {}, {}, {}), nullptr);
}

TEST(Meeting, KnowsItsPeers) {
  const auto all = worlds(3);
  const auto errors = run_threads(3, [&](int64_t rank) {
    const auto comm = meet(all[static_cast<size_t>(rank)],
                           {.same = {}, .device = "cuda:" + std::to_string(rank), .failure = {}}, {}, {});
    ASSERT_EQ(comm->peers().size(), 3);
    EXPECT_EQ(comm->peers()[1].device, "cuda:1");
    EXPECT_EQ(comm->peers()[2].rank, 2);
    EXPECT_EQ(comm->peers()[2].pid, getpid());
    EXPECT_FALSE(comm->peers()[0].host.empty());
    comm->barrier("end");
  });
  for (const auto& error : errors) EXPECT_EQ(error, "");
}

TEST(Meeting, NamesBothRanksAndTheLineThatDiffers) {
  const auto errors = meet_with(worlds(3), [](int64_t rank) {
    return Terms{.same = {{"LibTorch", "2.11.0"},
                          {"recipe", rank == 2 ? "[grpo]\ngroup_size = 4\n" : "[grpo]\ngroup_size = 3\n"}},
                 .failure = {}};
  });
  for (const auto& error : errors) {
    EXPECT_NE(error.find("the ranks differ in recipe: rank 0 on "), std::string::npos) << error;
    EXPECT_NE(error.find("has 'group_size = 3', rank 2 on "), std::string::npos) << error;
    EXPECT_NE(error.find("has 'group_size = 4'"), std::string::npos) << error;
  }
}

TEST(Meeting, WorldSizesThatDifferAreNamed) {
  auto all = worlds(2);
  all[1].size = 3;
  const auto errors = meet_with(all, [](int64_t) { return Terms{}; });
  for (const auto& error : errors) {
    EXPECT_NE(error.find("the ranks differ in WORLD_SIZE: rank 0 on "), std::string::npos) << error;
    EXPECT_NE(error.find("has '2', rank 1 on "), std::string::npos) << error;
  }
}

TEST(Meeting, OneRanksBadInputEndsAll) {
  const auto all = worlds(3);
  std::atomic<int> bad = 0;
  run_threads(3, [&](int64_t rank) {
    Terms terms;
    if (rank == 1) terms.failure = Failure{ExitCode::bad_input, "a.toml: not there"};
    try {
      meet(all[static_cast<size_t>(rank)], terms, {.deadlines = {.meeting_s = 30}}, {});
    } catch (const BadInput& error) {
      if (std::string(error.what()) == "a.toml: not there") ++bad;
    }
  });
  EXPECT_EQ(bad, 3);
}

TEST(Meeting, TwoProcessesOfOneRankAreRefused) {
  auto all = worlds(2);
  all.push_back(all[1]);
  const auto errors = meet_with(all, [](int64_t) { return Terms{}; });
  EXPECT_EQ(errors[0], "");
  EXPECT_NE((errors[1] + errors[2]).find("two processes are rank 1: "), std::string::npos) << errors[1] << errors[2];
  EXPECT_TRUE(errors[1].empty() != errors[2].empty());
}

TEST(Meeting, WhoIsMissingIsNamedWhenTheTimeIsUp) {
  auto all = worlds(4);
  const std::string where = "127.0.0.1:" + std::to_string(all[0].port);
  all.erase(all.begin() + 2, all.end());
  const auto errors = meet_with(all, [](int64_t) { return Terms{}; }, 0.5);
  for (const auto& error : errors) EXPECT_EQ(error, "rank 2, rank 3 of 4 did not come to " + where + " within 0.5 s");
}

TEST(Meeting, AStoreThatNobodyOpensIsNamed) {
  auto all = worlds(2);
  close(*all[0].listen_fd);
  const std::string where = "127.0.0.1:" + std::to_string(all[0].port);
  all.erase(all.begin());
  const auto errors = meet_with(all, [](int64_t) { return Terms{}; }, 0.5);
  EXPECT_EQ(errors[0], "the store at " + where + ", which rank 0 opens, does not answer within 0.5 s");
}

TEST(Meeting, APortThatIsTakenIsNamed) {
  const test::Listener taken;
  auto all = worlds(2);
  close(*all[0].listen_fd);
  all[0].listen_fd.reset();
  all[0].port = taken.port;
  all.pop_back();
  const auto errors = meet_with(all, [](int64_t) { return Terms{}; }, 5);
  EXPECT_NE(errors[0].find("the store at 127.0.0.1:" + std::to_string(taken.port) + ": "), std::string::npos);
  EXPECT_NE(errors[0].find("EADDRINUSE"), std::string::npos) << errors[0];
}

TEST(Meeting, GarbageOnItsPortDoesNotStopIt) {
  const auto all = worlds(3);
  const auto errors = run_threads(4, [&](int64_t rank) {
    if (rank < 3) {
      const auto comm = meet(all[static_cast<size_t>(rank)], {}, {.deadlines = {.meeting_s = 60}}, {});
      for (int i = 0; i < 50; ++i) comm->barrier("test");
      return;
    }
    for (int i = 0; i < 10; ++i) {
      const int fd = socket(AF_INET, SOCK_STREAM, 0);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      address.sin_port = htons(all[0].port);
      if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
        const std::string text = i % 2 == 0 ? "GET / HTTP/1.0\r\n\r\n" : std::string(5000, '\xff');
        [[maybe_unused]] const ssize_t sent = send(fd, text.data(), text.size(), MSG_NOSIGNAL);
      }
      close(fd);
    }
  });
  for (const auto& error : errors) EXPECT_EQ(error, "");
}

TEST(Meeting, AStopEndsTheWait) {
  auto all = worlds(2);
  std::atomic<int> signal = 15;
  EXPECT_THROW(meet(all[0], {}, {}, StopToken(signal)), Interrupted);
}

/// Of a signal to all ranks: rank 0 is the first to go, and the store with it.
TEST(Meeting, AStoreThatGoesAtAStopIsNotALoss) {
  const auto all = worlds(3);
  auto store = std::make_unique<Store>(all[0], 30);
  std::atomic<int> signal = 0;
  std::string line;
  std::thread rank([&] {
    try {
      meet(all[1], {}, {}, StopToken(signal));
    } catch (const Interrupted& stopped) {
      line = stopped.what();
    } catch (const std::exception& error) {
      line = std::string("not stopped but: ") + error.what();
    }
  });
  while (!store->find("card/1")) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  signal = SIGINT;
  store.reset();
  rank.join();
  EXPECT_EQ(line, "SIGINT: the ranks were not all there yet at 127.0.0.1:" + std::to_string(all[0].port));
}

}  // namespace
}  // namespace unigrpo::parallel
